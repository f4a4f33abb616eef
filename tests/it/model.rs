use std::process::Command;

/// Half a minute of the model check; `cargo xtask soak` runs it for longer, `cargo xtask mutations` shows that it can fail.
/// `EVENT_BOX_SEED` repeats what was drawn.
#[test]
fn every_group_gets_what_was_committed_once_and_in_order() {
    let mut model = Command::new(env!("CARGO_BIN_EXE_model"));
    model.args(["run", "--seconds", "30"]);
    if let Ok(seed) = std::env::var("EVENT_BOX_SEED") {
        model.args(["--seed", &seed]);
    }
    let output = model.output().expect("the model runs");
    let text = [output.stdout, output.stderr].concat();
    println!("{}", String::from_utf8_lossy(&text));
    assert!(output.status.success(), "the model check ended with {}", output.status);
}
