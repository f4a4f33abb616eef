use event_box::{EventBox, testing};
use recipes::{Gremlin, Stage};

use crate::{App, TABLES, client::Payments, group, place, provider::Provider};

/// Every charge is made and then not answered, and every other handler fails after its call.
#[tokio::test(flavor = "multi_thread")]
async fn a_charge_whose_answer_is_lost_is_made_once() {
    let stage = Stage::open("idempotent_call_test", TABLES).await.unwrap();
    let provider = Provider::forgetful(1);
    let doors = provider.open(None).await.unwrap();
    place(&stage.pool, 0..5).await.unwrap();

    let app =
        App { pool: stage.pool.clone(), payments: Payments::new(doors.url()).unwrap(), gremlin: Gremlin::every(2) };
    let payments = group(&EventBox::new(stage.pool.clone()), app).unwrap();
    let drained = testing::drain(&payments).await.unwrap();
    assert_eq!((drained.handled, provider.charges().len()), (5, 5));
    assert!(drained.failures.len() > 5, "{:?}", drained.failures);
    doors.close().await.unwrap();
    stage.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_not_there_is_held_against_no_order() {
    let stage = Stage::open("idempotent_call_test", TABLES).await.unwrap();
    let provider = Provider::forgetful(100);
    let doors = provider.open(None).await.unwrap();
    let app =
        App { pool: stage.pool.clone(), payments: Payments::new(doors.url()).unwrap(), gremlin: Gremlin::every(0) };
    let payments = group(&EventBox::new(stage.pool.clone()), app).unwrap();
    place(&stage.pool, 0..3).await.unwrap();

    let doors = doors
        .close_and_reopen(async || {
            let drained = testing::drain(&payments).await?;
            assert!(drained.unavailable.is_some() && drained.handled == 0, "{drained:?}");
            Ok(())
        })
        .await
        .unwrap();
    provider.set_down(true);
    let drained = testing::drain(&payments).await.unwrap();
    assert!(drained.unavailable.is_some_and(|error| error.contains("503")));
    provider.set_down(false);
    let drained = testing::drain(&payments).await.unwrap();
    assert_eq!((drained.handled, drained.failures), (3, vec![]));
    doors.close().await.unwrap();
    stage.close().await.unwrap();
}

/// One that is no card is given up at once; the others are charged.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_final() {
    let stage = Stage::open("idempotent_call_test", TABLES).await.unwrap();
    let provider = Provider::forgetful(100);
    let doors = provider.open(None).await.unwrap();
    let app =
        App { pool: stage.pool.clone(), payments: Payments::new(doors.url()).unwrap(), gremlin: Gremlin::every(0) };
    let payments = group(&EventBox::new(stage.pool.clone()), app).unwrap();
    place(&stage.pool, 18..21).await.unwrap();

    let drained = testing::drain(&payments).await.unwrap();
    assert_eq!((drained.handled, drained.dead_letters.len(), drained.failures.len()), (2, 1, 1));
    assert_eq!(drained.dead_letters[0].attempts, 1);
    doors.close().await.unwrap();
    stage.close().await.unwrap();
}
