//! The vocabulary of the tests: the product in the cluster, objects that go with their test, kubectl.

use std::{
    cell::RefCell,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use balancing_e2e::cluster::{ControlPlane, Kube, binaries, helm, objects};
use serde_json::Value;

/// How long something may take to come to pass before a test fails. What is promised is measured elsewhere.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Installs the chart.
pub(crate) fn install(plane: &ControlPlane) -> Result<()> {
    helm::install(plane, &[])?;
    let kube = plane.admin()?;
    for definition in balancing_api::crd::all() {
        let path = objects::place(&definition)?.path();
        kube.wait_for(&path, SOON, "an established definition", |d| is_true(d, "Established"))?;
    }
    Ok(())
}

/// Objects of a test: they are deleted when this is dropped, the last first.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) kube: Kube,
    made: RefCell<Vec<String>>,
}

impl Scene {
    pub(crate) fn new(plane: &ControlPlane) -> Result<Self> {
        Ok(Self { kube: plane.admin()?, made: RefCell::default() })
    }

    /// Creates an object, as it is in the API server with its status.
    pub(crate) fn create(&self, object: &Value) -> Result<Value> {
        self.note(objects::place(object)?.path());
        self.kube.create(object)
    }

    /// Applies an object as a user writes it.
    pub(crate) fn apply(&self, object: &Value) -> Result<Value> {
        self.note(objects::place(object)?.path());
        self.kube.apply(&objects::written(object.clone()))
    }

    /// Deletes an object now.
    pub(crate) fn delete(&self, object: &Value) -> Result<()> {
        self.kube.delete(&objects::place(object)?.path())
    }

    /// Deletes what is at a path when the test ends.
    pub(crate) fn note(&self, path: String) {
        let mut made = self.made.borrow_mut();
        if !made.contains(&path) {
            made.push(path);
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for path in self.made.take().into_iter().rev() {
            if let Err(e) = self.kube.delete(&path) {
                eprintln!("failed to remove {path}: {e:#}");
            }
        }
    }
}

/// `Some(())` where a condition of the object's status is `True`.
pub(crate) fn is_true(object: &Value, condition: &str) -> Option<()> {
    (condition_of(object, condition)?["status"] == "True").then_some(())
}

/// A condition of the object's status.
pub(crate) fn condition_of<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

/// `kubectl ARGUMENTS` as a user of the control plane.
pub(crate) fn kubectl(plane: &ControlPlane, user: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binaries::program("kubectl")?);
    command
        .args(arguments)
        .env("KUBECONFIG", plane.kubeconfig(user)?)
        // What it learns of one API server must not be believed of the next at the same address.
        .env("KUBECACHEDIR", plane.folder().join("kubectl-cache"))
        .stdin(Stdio::null());
    command.output().with_context(|| format!("kubectl {arguments:?}"))
}

/// The same, which must succeed: what it printed, and what it warned of.
pub(crate) fn kubectl_ok(plane: &ControlPlane, user: &str, arguments: &[&str]) -> Result<(String, String)> {
    let output = kubectl(plane, user, arguments)?;
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success(), "kubectl {arguments:?} ended with {}: {err}", output.status);
    Ok((out, err))
}
