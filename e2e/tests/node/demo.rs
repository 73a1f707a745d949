//! The demo is a promise too: what it shows on the examples is what its clients saw.

use std::{env, process::Command};

use anyhow::{Result, ensure};
use balancing_e2e::{client::built, network::Network, suite::CannotRun};

use crate::Test;

pub(crate) const TESTS: &[(&str, Test)] = &[("once", once)];

fn once(_: &Network) -> Result<()> {
    for (program, package) in [("dnsmasq", "dnsmasq-base"), ("dig", "bind9-dnsutils")] {
        let path = env::var_os("PATH").unwrap_or_default();
        if !env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| folder.join(program).is_file()) {
            return Err(CannotRun(format!("no {program} here (Debian package {package})")).into());
        }
    }
    let out = Command::new(built("balancing-demo")?).arg("--once").output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    ensure!(
        out.status.success(),
        "the demo ended with {}:\n{said}{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    ensure!(said.contains("checks: what was shown is what the clients saw"), "{said}");
    Ok(())
}
