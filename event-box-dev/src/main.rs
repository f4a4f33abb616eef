//! `cargo run -p event-box-dev -- [name=value ...]`: a PostgreSQL with these settings until it is interrupted.

use std::convert::Infallible;
use std::error::Error;
use std::process::ExitCode;
use std::thread;

use event_box_dev::{Server, ServerOptions};

fn main() -> ExitCode {
    let Err(error) = serve();
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

fn serve() -> Result<Infallible, Box<dyn Error>> {
    let mut options = ServerOptions::new();
    for argument in std::env::args().skip(1) {
        let (name, value) = argument.split_once('=').ok_or_else(|| format!("expected name=value, got {argument}"))?;
        options = options.setting(name, value);
    }
    let server = Server::from_env_or_start_with(&options)?;
    println!("url: {}", server.url());
    if let Some(data_dir) = server.data_dir() {
        println!("data: {}", data_dir.display());
    }
    loop {
        thread::park();
    }
}
