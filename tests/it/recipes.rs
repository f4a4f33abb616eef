use std::{path::PathBuf, process::Command};

use event_box_tests::TestLog;

/// A recipe, built.
fn recipe(name: &str) -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Command::new(cargo).args(["build", "--quiet", "-p", "recipes"]).status().expect("cargo runs");
    assert!(built.success());
    // Beside the test programs' own directory.
    let program = PathBuf::from(env!("CARGO_BIN_EXE_group-member")).with_file_name(name);
    let mut command = Command::new(program);
    // Shown where the recipe fails.
    command.env("RUST_LOG", "warn");
    command
}

/// Runs it on the tests' server; what it checks is its own business, and so that all of it was checked is ours.
async fn assert_books_agree(name: &str, promises: &[&str]) {
    let log = TestLog::empty().await;
    let mut command = recipe(name);
    command.env("EVENT_BOX_DATABASE_URL", log.url());
    let ran = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.unwrap();
    let (printed, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{printed}\n{errors}");
    for promise in promises {
        assert!(printed.lines().any(|line| line == format!("yes  {promise}")), "`{promise}` is missing:\n{printed}");
    }
    assert!(printed.ends_with("\nthe books agree\n"), "{printed}");
    let left = format!("recipe_{}%", name.replace('-', "_"));
    let left: i64 = sqlx::query_scalar("select count(*) from pg_database where datname like $1")
        .bind(left)
        .fetch_one(&log.pool)
        .await
        .unwrap();
    assert_eq!(left, 0, "its database is left behind");
    log.close().await;
}

#[tokio::test]
async fn a_saga_ends_completed_or_wholly_compensated() {
    let promises = [
        "each way an order may go was gone, no other, and undone in reverse",
        "some handlers failed technically",
        "a completed order has its reservation, its charge and its parcel",
        "a cancelled order has none of them",
        "there are as many goods as before",
        "there is as much money as before",
    ];
    assert_books_agree("saga", &promises).await;
}

#[tokio::test]
async fn an_external_call_is_charged_once() {
    let promises = [
        "nobody was charged twice",
        "everybody with a card was charged",
        "there were more calls than charges",
        "our payments are the provider's charges, one for one",
    ];
    assert_books_agree("idempotent-call", &promises).await;
}

#[tokio::test]
async fn a_projection_is_rebuilt_and_swapped_under_traffic() {
    let promises = [
        "orders came while readers were swapped over",
        "readers never saw less than before",
        "the projection is the sum of all orders, to the unit and the cent",
        "the old group is gone and holds nothing back",
    ];
    assert_books_agree("projection", &promises).await;
}

#[tokio::test]
async fn two_topics_are_handled_in_the_order_of_each_key() {
    let promises = [
        "some handlers failed technically",
        "every payment and every shipment is on the timeline once",
        "each order's timeline is in the order in which it happened",
    ];
    assert_books_agree("fan-in", &promises).await;
}

#[tokio::test]
async fn a_service_loses_and_doubles_nothing_when_it_is_told_to_stop() {
    let promises = [
        "every request that had begun was finished",
        "so was every event: nothing that a handler did was rolled back",
        "each has its event, one",
        "each has its reservation, one",
        "each was published, and none twice, as nobody was killed",
    ];
    assert_books_agree("service", &promises).await;
}
