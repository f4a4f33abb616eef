//! What the results were measured on, and with.

use std::{fmt::Write, fs, process::Command, thread};

use sqlx::PgPool;

/// Where and with what a run took place, for whoever reads its results.
#[derive(Debug)]
pub struct Machine {
    cores: usize,
    load: f64,
}

/// What the settings of the server are asked for.
const SETTINGS: [&str; 8] = [
    "fsync",
    "synchronous_commit",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "max_connections",
    "autovacuum",
    "jit",
];

impl Machine {
    /// As it is before the run: what else it has to do shows then.
    pub fn look() -> Self {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN);
        Self { cores: thread::available_parallelism().map_or(1, |cores| cores.get()), load }
    }

    /// Whether it had something else to do when the run began.
    pub fn was_busy(&self) -> bool {
        self.load > self.cores as f64 / 4.0
    }

    /// Lines of Markdown: date, cores, versions, settings. `versions` are of what else took part.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn describe(&self, pool: &PgPool, versions: &[(&str, String)]) -> anyhow::Result<String> {
        let date: String =
            sqlx::query_scalar("select to_char(now() at time zone 'utc', 'YYYY-MM-DD')").fetch_one(pool).await?;
        let server: String = sqlx::query_scalar("show server_version").fetch_one(pool).await?;
        let mut settings = Vec::new();
        for name in SETTINGS {
            let value: String = sqlx::query_scalar("select current_setting($1)").bind(name).fetch_one(pool).await?;
            settings.push(format!("`{name} = {value}`"));
        }
        let mut versions = versions.to_vec();
        versions.extend([("rustc", rustc()), ("PostgreSQL", server)]);
        let versions: Vec<_> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let mut text = String::new();
        writeln!(text, "- Date: {date}.")?;
        writeln!(text, "- Machine: {} cores ({}), {}.", self.cores, model(), std::env::consts::OS)?;
        writeln!(text, "- Versions: {}.", versions.join(", "))?;
        writeln!(text, "- Server: one of the benchmark's own, on the same machine, {}.", settings.join(", "))?;
        if self.was_busy() {
            writeln!(
                text,
                "- **The machine was busy when this began: a load of {:.1} on {} cores. The figures are noisy, and not to be quoted.**",
                self.load, self.cores
            )?;
        }
        Ok(text)
    }
}

/// The commit that the benchmark was built from, with a mark where the files differ from it; of this repository alone.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "of no known commit".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", "..", ":!../bench/RESULTS.md"]);
    let changed = changed.is_some_and(|changed| !changed.is_empty());
    if changed { format!("{commit} with changes") } else { commit }
}

/// The version of a crate in the text of a `Cargo.lock`; of several, all of them.
pub fn locked(lock: &str, package: &str) -> String {
    let name = format!("name = \"{package}\"");
    let after = lock.lines().zip(lock.lines().skip(1)).filter(|(line, _)| *line == name);
    let versions: Vec<_> =
        after.map(|(_, version)| version.trim_start_matches("version = ").trim_matches('"')).collect();
    versions.join(" and ")
}

fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).split(' ').nth(1).unwrap_or("unknown").to_owned()
}

fn model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    model.trim_start_matches([' ', '\t', ':']).to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_locked_version_is_found() {
        let lock =
            "[[package]]\nname = \"sqlx\"\nversion = \"0.8.6\"\n\n[[package]]\nname = \"sqlx\"\nversion = \"0.9.0\"\n";
        assert_eq!(super::locked(lock, "sqlx"), "0.8.6 and 0.9.0");
        assert_eq!(super::locked(lock, "sql"), "");
    }
}
