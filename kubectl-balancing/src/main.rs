//! `kubectl balancing`: see the crate's library.

fn main() -> std::process::ExitCode {
    kubectl_balancing::cli::main().into()
}
