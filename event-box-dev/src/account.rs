//! PostgreSQL refuses to run as root, so that root runs it as somebody else.

#[cfg(unix)]
pub(crate) use unix::{drop_root, give, is_root};

#[cfg(unix)]
mod unix {
    use std::fs;
    use std::io;
    use std::os::unix::fs::chown;
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::Command;
    use std::sync::OnceLock;

    struct Account {
        uid: u32,
        gid: u32,
    }

    pub(crate) fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// Has `command` run as `postgres`, or else `nobody`, where we are root.
    pub(crate) fn drop_root(command: &mut Command) {
        if let Some(account) = unprivileged() {
            command.uid(account.uid).gid(account.gid);
        }
    }

    /// Makes `path` the property of whom [`drop_root`] runs commands as.
    pub(crate) fn give(path: &Path) -> io::Result<()> {
        unprivileged().map_or(Ok(()), |account| chown(path, Some(account.uid), Some(account.gid)))
    }

    fn unprivileged() -> Option<&'static Account> {
        static ACCOUNT: OnceLock<Option<Account>> = OnceLock::new();
        ACCOUNT
            .get_or_init(|| {
                let passwd = is_root().then(|| fs::read_to_string("/etc/passwd").ok())??;
                ["postgres", "_postgres", "nobody"].iter().find_map(|name| lookup(&passwd, name))
            })
            .as_ref()
    }

    fn lookup(passwd: &str, name: &str) -> Option<Account> {
        let mut fields = passwd.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.split(':').skip(1);
        // macOS writes nobody's ids as -2.
        let mut id = || fields.next()?.parse::<i64>().ok().map(|id| id as u32);
        Some(Account { uid: id()?, gid: id()? })
    }

    #[cfg(test)]
    mod tests {
        use super::lookup;

        #[test]
        fn finds_the_ids_of_a_whole_name() {
            let passwd = "postgresql:x:1:2::/:/bin/sh\npostgres:x:101:104:,,,:/:/bin/sh\nnobody:*:-2:-2::/:/bin/sh\n";
            let postgres = lookup(passwd, "postgres").expect("is listed");
            assert_eq!((postgres.uid, postgres.gid), (101, 104));
            assert_eq!(lookup(passwd, "nobody").expect("is listed").uid, 4_294_967_294);
            assert!(lookup(passwd, "_postgres").is_none());
        }
    }
}

#[cfg(not(unix))]
pub(crate) fn drop_root(_command: &mut std::process::Command) {}

#[cfg(not(unix))]
pub(crate) fn is_root() -> bool {
    false
}
