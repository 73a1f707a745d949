//! `cargo xtask`: set-up, demo, tests and the eBPF object.

mod bench;
mod bpf;
mod control_plane;
mod demo;
mod images;
mod kernels;
mod process;
mod setup;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup          install what tests and demo need, once (Debian packages, a BPF file system, build tools, and the
                 programs of a Kubernetes control plane, which are built with Go)
  demo [--once]  the product on this machine, without a cluster: namespaces as pods, real DNS and HTTP traffic,
                 `kubectl balancing top` on it; with --once it prints the tables, checks them and ends
  test           everything that must hold: format, lints, the eBPF object, and all tests
  bench [--quick] [ID...] [-o json]
                 measures the product beside its floors and peers; the results go to bench/results
  crds           write the custom resource definitions of the chart, and the table of its values, as the sources say
  images [--debug]
                 target/images/*.tar: container images of agent and operator, without a daemon
  kernels [SUITE...] [--test NAME]... | --page
                 agent and eBPF object on the kernels of Debian, in virtual machines; the table of docs/reference/kernel.md;
                 with --test only those tests of a node, and no table
  bpf [--check]  build the eBPF objects, or show that the committed ones are what the sources give";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["setup"] => setup::everything(),
        ["demo"] => demo::run(false),
        ["demo", "--once"] => demo::run(true),
        ["test"] => test::run(),
        ["bench", ..] => bench::run(&arguments[1..]),
        ["crds"] => generate(),
        ["images"] => images::run(false),
        ["images", "--debug"] => images::run(true),
        ["kernels", ..] => kernels::run(&arguments[1..]),
        ["bpf"] => bpf::run(false),
        ["bpf", "--check"] => bpf::run(true),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(if matches!(&arguments[..], [a] if a == "--help" || a == "-h") {
                0
            } else {
                2
            });
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The tests that compare what is generated with the sources write it instead.
fn generate() -> anyhow::Result<()> {
    for (package, test) in [("balancing-api", "crds"), ("balancing-e2e", "chart")] {
        let mut command = process::cargo(&["test", "--quiet", "--package", package, "--test", test]);
        process::run(command.env("BALANCING_UPDATE", "1"))?;
    }
    Ok(())
}
