use std::net::{Ipv4Addr, TcpListener};

/// A loopback port that nothing listens on at the moment.
///
/// Below the range from which the system gives ports to connections: there a client that keeps trying to reach a stopped server
/// could be given the server's own port, and then keep it from starting again.
pub(crate) fn free() -> u16 {
    loop {
        let port = fastrand::u16(10_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
