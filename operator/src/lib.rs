//! The operator of a cluster: ids and status of policies, conflicts, what spans nodes.
//!
//! Watches ([`watch`]) bring changes; [`core`] says what is to be written, and when; [`run`] is the shell around both.

pub mod admission;
pub mod check;
pub mod client;
pub mod config;
pub mod core;
pub mod health;
pub mod ids;
pub mod leader;
pub mod logging;
pub mod metrics;
pub mod objects;
pub mod observe;
pub mod owner;
pub mod port;
pub mod ports;
pub mod publish;
pub mod reconcile;
pub mod run;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod watch;
pub mod world;

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{config::Config, health::Health, leader::Candidate, metrics::Metrics, owner::Owner};

/// The program `balancing-operator`. Exit status: 0 ended as asked, 1 failed, 2 wrong usage.
#[must_use]
pub fn program() -> ExitCode {
    let config = Config::parse();
    if let Err(error) = logging::init(&config) {
        eprintln!("error: failed to start the log: {error}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("failed to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text += &format!(": {error}");
                cause = error.source();
            }
            tracing::error!("{text}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    // The only provider in the build; a second one would make rustls refuse to choose.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = client::connect(&config).await?;
    // Every flag is named, so that one which nobody uses does not compile.
    let Config {
        kubeconfig: _,
        api_server_host: _,
        api_server_port: _,
        namespace,
        pod_name,
        lease_name,
        lease_duration,
        deployment,
        listen_health,
        listen_observe,
        listen_webhook,
        webhook,
        pod_ip,
        status_interval,
        check,
        log_format: _,
        log_level: _,
    } = config;
    if check {
        return check::run(client, &namespace).await;
    }
    let identity =
        pod_name.clone().or_else(hostname).ok_or("failed to read the host's name; give --pod-name")?;
    let (health, metrics) = (Arc::new(Health::default()), Metrics::default());
    let listener = health::bind(listen_health)
        .await
        .map_err(|error| format!("failed to listen on {listen_health} (--listen-health): {error}"))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity, namespace, health = %listener.local_addr()?, "started");
    let page = health::router(Arc::clone(&health), Arc::new(metrics.registry()));
    let port = tokio::spawn(health::serve(listener, page));

    let end = CancellationToken::new();
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let asked = end.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("asked to end");
        asked.cancel();
    });
    let owner = Owner::default();
    let candidate = Candidate {
        lease: lease_name,
        namespace: namespace.clone(),
        identity,
        duration: lease_duration,
        deployment,
        owner: owner.clone(),
    };
    let status_interval = std::time::Duration::from_secs(status_interval);
    let ports = ports::Settings {
        namespace: namespace.clone(),
        observe: listen_observe,
        webhook: webhook.then_some(listen_webhook),
        own: pod_ip,
        pod: pod_name,
        owner,
    };
    let ties = ports::open(&client, &ports, &metrics, &end).await?;
    let settings = run::Settings { namespace, candidate, status_interval };
    let ended = run::run(client, settings, health, metrics, ties, end.clone()).await;
    // Also where it failed: whoever is connected finds the next leader.
    end.cancel();
    port.abort();
    Ok(ended?)
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
