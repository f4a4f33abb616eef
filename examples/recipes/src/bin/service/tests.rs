use std::{future::pending, net::SocketAddr, time::Duration};

use event_box::EventBox;
use recipes::{Stage, until};
use reqwest::{Client, StatusCode};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use crate::{
    TABLES,
    clients::{new_orders, post},
    forwarder::Sink,
    orders::App,
    service,
};

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_stops_the_others() {
    let stage = Stage::open("service_test", TABLES).await.unwrap();
    let (listener, address) = listen().await;
    let (app, sink) = (App::new(stage.pool.clone()), Sink::default());
    let running = tokio::spawn(service::run(app, listener, sink.clone(), pending(), Duration::from_secs(600)));
    let orders = new_orders(1);
    assert_eq!(post(&Client::new(), address, &orders[0]).await.unwrap(), StatusCode::CREATED);
    until("the order was published", async || Ok(sink.published().len() == 1)).await.unwrap();

    let warehouse = EventBox::new(stage.pool.clone()).group("warehouse");
    until("the group is there to be removed", async || Ok(warehouse.remove().await?)).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), running).await.expect("the others are stopped");
    assert_eq!(ended.unwrap().unwrap_err().to_string(), "the consumer failed");
    TcpStream::connect(address).await.expect_err("the web server has stopped");
    stage.close().await.unwrap();
}

/// A request waits for a lock that is never given up: the service ends all the same, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_is_cut_off() {
    let stage = Stage::open("service_test", TABLES).await.unwrap();
    let (listener, address) = listen().await;
    let (app, (stop, told_to_stop)) = (App::new(stage.pool.clone()), oneshot::channel::<()>());
    let told = async { drop(told_to_stop.await) };
    let grace = Duration::from_millis(300);
    let running = tokio::spawn(service::run(app.clone(), listener, Sink::default(), told, grace));

    let mut holder = stage.pool.begin().await.unwrap();
    sqlx::query("lock table orders").execute(&mut *holder).await.unwrap();
    let request = tokio::spawn(async move { post(&Client::new(), address, &new_orders(1)[0]).await });
    until("the request is under way", async || Ok(app.requests.under_way() == 1)).await.unwrap();
    stop.send(()).unwrap();
    let error = running.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("cut off"), "{error:#}");
    drop(holder);
    request.abort();
    stage.close().await.unwrap();
}
