use std::process::Command;

/// The README's first command, with no server running and no variable set.
#[test]
fn the_quickstarts_books_agree() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let ran = Command::new(cargo)
        .args(["run", "--quiet", "-p", "quickstart"])
        .env_remove("EVENT_BOX_DATABASE_URL")
        .output()
        .expect("cargo runs");
    let (printed, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{printed}\n{errors}");
    for line in ["events emitted                360", "declined, rolled back          40", "the books agree"] {
        assert!(printed.contains(line), "`{line}` is missing:\n{printed}");
    }
    assert_eq!(errors, "", "nothing to worry a newcomer");
}
