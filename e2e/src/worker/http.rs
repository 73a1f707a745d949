//! A small HTTP server for the demo: it tells who it is.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

/// `NAME PORT...`: serves until stdin ends; prints a line when it does.
pub(super) fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let name = arguments.next().context("http needs a name")?;
    for port in arguments {
        let port: u16 = port.parse().with_context(|| format!("port {port:?}"))?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .with_context(|| format!("failed to listen on {port}"))?;
        let name = name.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let name = name.clone();
                // A client that goes away early is its own affair.
                thread::spawn(move || answer(&name, stream).ok());
            }
        });
    }
    writeln!(io::stdout(), "ready")?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn answer(name: &str, mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let at = stream.local_addr()?;
    let mut request = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    // The headers end with an empty line.
    while request.read_line(&mut line)? > 0 && line.trim_end() != "" {
        line.clear();
    }
    let body = format!("{name} answered at {at}\n");
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: {name}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes())
}
