//! The packages as they would be published, unpacked elsewhere, and a foreign crate that is built on them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use event_box_tests::TestLog;
use serde_json::Value;
use tempfile::TempDir;

const MAIN: &str = r#"
use event_box::{BoxError, Consumer, Context, Event, Outbox};

#[derive(serde::Serialize, serde::Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "order_id")]
struct OrderPlaced {
    order_id: i64,
}

async fn reserve(event: OrderPlaced, cx: &mut Context<'_>) -> Result<(), BoxError> {
    sqlx::query("insert into reservations values ($1)").bind(event.order_id).execute(cx).await?;
    Ok(())
}

/// Checked against the application's own database, where there is one.
#[cfg(feature = "checked")]
pub async fn orders(pool: &sqlx::PgPool) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar!("select id from strangers_orders").fetch_all(pool).await
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let pool = sqlx::PgPool::connect("postgres://localhost/shop").await?;
    event_box::migrate(&pool).await?;
    Outbox::new().emit(&pool, &OrderPlaced { order_id: 7 }).await?;
    Ok(Consumer::builder(pool, "warehouse").on(reserve).build()?.run_until_signal().await?)
}
"#;

/// The features of sqlx that an application may choose and event-box does not, as features of the foreign crate.
const FEATURES: &str = r#"
checked = []
with_chrono = ["sqlx/chrono", "sqlx/default"]
with_time = ["sqlx/time"]
with_all_types = ["with_chrono", "with_time", "sqlx/bigdecimal", "sqlx/rust_decimal", "sqlx/ipnet", "sqlx/ipnetwork",
                  "sqlx/mac_address", "sqlx/bit-vec", "sqlx/bstr", "sqlx/tls-rustls-ring-webpki"]
with_native_tls = ["sqlx/tls-native-tls"]
"#;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Without the variables that decide what sqlx's macros look at.
fn command(program: impl Into<OsString>) -> Command {
    let mut command = Command::new(program.into());
    for variable in
        ["DATABASE_URL", "EVENT_BOX_DATABASE_URL", "EVENT_BOX_BUILD_DATABASE_URL", "SQLX_OFFLINE", "SQLX_OFFLINE_DIR"]
    {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

#[track_caller]
fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the workspace would publish.
fn publishable() -> Vec<Value> {
    let metadata =
        cargo().current_dir(root()).args(["metadata", "--no-deps", "--offline", "--format-version=1"]).output();
    let metadata = metadata.expect("cargo runs");
    assert_success(&metadata);
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.filter(|package| package["publish"] != Value::Array(Vec::new())).cloned().collect()
}

/// Packages, unpacked in a directory far from the workspace, and a crate beside them that uses them.
struct Stranger {
    directory: TempDir,
    /// Each with its directory.
    packages: BTreeMap<String, PathBuf>,
}

impl Stranger {
    fn new(features: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut package = cargo();
        package.current_dir(root()).args(["package", "--quiet", "--no-verify", "--offline", "--allow-dirty"]);
        package.arg("--target-dir").arg(directory.path().join("packed"));
        let mut packages = BTreeMap::new();
        for published in publishable() {
            let (name, version) = (published["name"].as_str().unwrap(), published["version"].as_str().unwrap());
            package.args(["--package", name]);
            packages.insert(name.to_owned(), directory.path().join(format!("{name}-{version}")));
        }
        assert_success(&package.output().expect("cargo runs"));
        for unpacked in packages.values() {
            let archive = directory.path().join("packed/package").join(unpacked.file_name().unwrap());
            let mut tar = command("tar");
            tar.arg("-xzf").arg(archive.with_file_name(format!("{}.crate", archive.file_name().unwrap().display())));
            assert_success(&tar.arg("-C").arg(directory.path()).output().expect("tar runs"));
        }
        let stranger = Self { directory, packages };
        stranger.write(features);
        stranger
    }

    fn write(&self, features: &str) {
        let rust_version = publishable()[0]["rust_version"].as_str().expect("a minimum version of Rust").to_owned();
        let patches: String =
            self.packages.iter().map(|(name, path)| format!("{name} = {{ path = {path:?} }}\n")).collect();
        let manifest = format!(
            "[package]\nname = \"stranger\"\nversion = \"1.0.0\"\nedition = \"2024\"\nrust-version = \"{rust_version}\"\n\
             [features]\n{features}\n\
             [dependencies]\nevent-box = \"0.1\"\nserde = {{ version = \"1\", features = [\"derive\"] }}\n\
             sqlx = {{ version = \"0.9\", default-features = false, features = [\"macros\", \"postgres\", \"runtime-tokio\"] }}\n\
             tokio = {{ version = \"1\", features = [\"macros\", \"rt-multi-thread\"] }}\n\
             [patch.crates-io]\n{patches}"
        );
        let own = self.own();
        fs::create_dir_all(own.join("src")).unwrap();
        fs::write(own.join("Cargo.toml"), manifest).unwrap();
        fs::write(own.join("src/main.rs"), MAIN).unwrap();
        // What the workspace uses is in cargo's cache.
        fs::copy(root().join("Cargo.lock"), own.join("Cargo.lock")).unwrap();
    }

    /// The foreign crate's directory.
    fn own(&self) -> PathBuf {
        self.directory.path().join("stranger")
    }

    /// Builds it as far as is needed to know that it builds. Dependencies are kept between builds and tests, event-box is not.
    fn check(&self, mut cargo: Command, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("strangers");
        let kept = ["--target-dir".into(), target.into_os_string()];
        cargo.current_dir(self.own()).args(["check", "--quiet"]).args(arguments).args(&kept);
        let checked = cargo.envs(variables.iter().copied()).output().expect("cargo runs");
        // The macros' variables are no reason for cargo to build again.
        let mut clean = self::cargo();
        clean
            .current_dir(self.own())
            .args(["clean", "--quiet", "--offline", "-p", "event-box", "-p", "stranger"])
            .args(&kept);
        assert_success(&clean.output().expect("cargo runs"));
        checked
    }
}

#[test]
fn packages_hold_what_a_stranger_needs() {
    let stranger = Stranger::new("");
    let names: Vec<_> = stranger.packages.keys().map(String::as_str).collect();
    assert_eq!(names, ["event-box", "event-box-derive"]);
    for package in stranger.packages.values() {
        for file in ["LICENSE-MIT", "LICENSE-APACHE", "README.md"] {
            assert_eq!(fs::read(package.join(file)).unwrap(), fs::read(root().join(file)).unwrap(), "{file}");
        }
    }
    let core = &stranger.packages["event-box"];
    for directory in [".sqlx", "migrations"] {
        let files = |parent: &Path| {
            let files = fs::read_dir(parent.join(directory)).unwrap();
            files.map(|file| file.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
        };
        assert!(!files(core).is_empty());
        assert_eq!(files(core), files(&root().join("event-box")), "{directory}");
    }
    assert!(fs::read_to_string(core.join("sqlx.toml")).unwrap().contains("EVENT_BOX_BUILD_DATABASE_URL"));
}

/// Whatever database the stranger's variables name, and where they name none; his own queries are checked against his own.
#[tokio::test]
async fn a_stranger_builds_on_the_packages_offline() {
    let log = TestLog::empty().await;
    log.sql("create table strangers_orders (id bigint primary key)").await;
    let stranger = Stranger::new("checked = []\ntraced = [\"event-box/opentelemetry\"]");
    let variables = [("DATABASE_URL", log.url()), ("EVENT_BOX_DATABASE_URL", log.url())];
    assert_success(&stranger.check(cargo(), &["--offline", "--features", "checked"], &variables));
    assert_success(&stranger.check(cargo(), &["--offline"], &[]));
    assert_success(&stranger.check(cargo(), &["--offline", "--features", "traced"], &[]));
    // That his own are checked shows that the variable was heeded.
    log.sql("drop table strangers_orders").await;
    let unchecked = stranger.check(cargo(), &["--offline", "--features", "checked"], &variables);
    let errors = String::from_utf8_lossy(&unchecked.stderr).into_owned();
    assert!(errors.contains("relation \"strangers_orders\" does not exist"), "{errors}");
    assert!(!errors.contains("event_box."), "{errors}");
    log.close().await;
}

/// Features are united: what sqlx takes a column for depends on what the application asked of it.
#[test]
fn whatever_features_of_sqlx_a_stranger_chooses() {
    let stranger = Stranger::new(FEATURES);
    let mut choices = vec!["with_chrono", "with_time", "with_all_types"];
    let openssl = command("pkg-config").args(["--exists", "openssl"]).output();
    if cfg!(not(target_os = "linux")) || openssl.is_ok_and(|found| found.status.success()) {
        choices.push("with_native_tls");
    } else {
        eprintln!("tls-native-tls was not tried: OpenSSL's headers are not installed");
    }
    for choice in choices {
        let checked = stranger.check(cargo(), &["--features", choice], &[]);
        assert!(checked.status.success(), "{choice}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// By the toolchain that runs this test, or by another that rustup has; nothing is installed for it.
#[test]
fn the_declared_minimum_of_rust_is_enough() {
    let stranger = Stranger::new("");
    let minimum = publishable()[0]["rust_version"].as_str().unwrap().to_owned();
    assert!(publishable().iter().all(|package| package["rust_version"] == minimum.as_str()), "one minimum for all");
    let printed = |program: &str, args: &[&str]| {
        let output = command(program).args(args).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    if printed("rustc", &["--version"]).starts_with(&format!("rustc {minimum}.")) {
        return assert_success(&stranger.check(cargo(), &["--offline"], &[]));
    }
    let installed = printed("rustup", &["toolchain", "list"]);
    let is_it = |name: &&str| name.starts_with(&format!("{minimum}-")) || name.starts_with(&format!("{minimum}."));
    let Some(toolchain) = installed.split_whitespace().find(is_it) else {
        eprintln!(
            "Rust {minimum}, the declared minimum, was not tried: `rustup toolchain install {minimum}` makes it so"
        );
        return;
    };
    let mut cargo = command("rustup");
    // Those of the toolchain that runs this test would win over the named one.
    cargo.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN").args(["run", toolchain, "cargo"]);
    assert_success(&stranger.check(cargo, &["--offline"], &[]));
}
