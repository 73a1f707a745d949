//! A client of the API server for tests: objects are JSON, warnings are seen, and a call blocks.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    path::Path,
    pin::pin,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures_util::TryStreamExt;
use http::{Method, Request};
pub use kube::core::WatchEvent;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::objects::place;
use crate::wait;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Who applies.
const MANAGER: &str = "e2e";
/// Media types of bodies.
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// An answer of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// What the `Warning` headers say.
    pub warnings: Vec<String>,
    /// The body.
    pub text: String,
}

impl Answer {
    /// Was it a success?
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Its body, if it was a success.
    ///
    /// # Errors
    /// It was none: the error says what the API server said.
    pub fn object(self) -> Result<Value> {
        ensure!(self.is_success(), "{}", self.complaint());
        serde_json::from_str(&self.text).with_context(|| format!("no JSON: {}", self.text))
    }

    /// What the API server says of a request that failed: `message` of its Status.
    #[must_use]
    pub fn complaint(&self) -> String {
        let status: Option<Value> = serde_json::from_str(&self.text).ok();
        let message = status.as_ref().and_then(|s| s["message"].as_str()).unwrap_or(&self.text);
        format!("{}: {message}", self.status)
    }
}

/// A client.
pub struct Kube {
    runtime: Runtime,
    client: Client,
}

impl fmt::Debug for Kube {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kube")
    }
}

impl Kube {
    /// A client as that kubeconfig says. Its sockets are in the network namespace of the thread that calls.
    ///
    /// # Errors
    /// The kubeconfig is wrong.
    pub fn connect(kubeconfig: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self { runtime, client })
    }

    /// A client of a plain HTTP server that is no API server.
    ///
    /// # Errors
    /// The machine refuses.
    pub fn plain(address: IpAddr, port: u16) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let config = Config::new(format!("http://{}", SocketAddr::new(address, port)).parse()?);
        let client = runtime.block_on(async { Client::try_from(config) })?;
        Ok(Self { runtime, client })
    }

    /// Any request.
    ///
    /// # Errors
    /// There is no answer. One that says no is an [`Answer`].
    pub fn request(&self, method: &Method, path: &str, media: &str, body: Option<&Value>) -> Result<Answer> {
        let what = || format!("{method} {path}");
        let body = body.map(ToString::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("content-type", media)
            .header("accept", JSON)
            .body(Body::from(body.into_bytes()))?;
        self.runtime.block_on(async {
            let answer = async {
                let answer = self.client.send(request).await?;
                let status = answer.status().as_u16();
                let warnings = answer.headers().get_all("warning").iter();
                let warnings = warnings.map(|w| String::from_utf8_lossy(w.as_bytes()).into_owned()).collect();
                let text = String::from_utf8_lossy(&answer.into_body().collect_bytes().await?).into_owned();
                anyhow::Ok(Answer { status, warnings, text })
            };
            tokio::time::timeout(PATIENCE, answer).await.with_context(what)?.with_context(what)
        })
    }

    /// `GET path`.
    ///
    /// # Errors
    /// There is no answer.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.request(&Method::GET, path, JSON, None)
    }

    /// The object at a path.
    ///
    /// # Errors
    /// There is none.
    pub fn object(&self, path: &str) -> Result<Value> {
        self.get(path)?.object().with_context(|| path.to_owned())
    }

    /// The items of a list.
    ///
    /// # Errors
    /// There is no such list.
    pub fn list(&self, path: &str) -> Result<Vec<Value>> {
        match self.object(path)?["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("{path} is no list: {other}"),
        }
    }

    /// Watches a collection, without a list before it and without another attempt: `each` is called with every event as
    /// it comes. What is there comes first, as added.
    ///
    /// # Errors
    /// The stream fails or ends before `each` says that it is enough.
    pub fn watch(
        &self,
        collection: &str,
        mut each: impl FnMut(WatchEvent<Value>) -> ControlFlow<()>,
    ) -> Result<()> {
        let join = if collection.contains('?') { '&' } else { '?' };
        let request = Request::get(format!("{collection}{join}watch=true")).body(Vec::new())?;
        self.runtime.block_on(async {
            let mut events = pin!(self.client.request_events(request).await?);
            while let Some(event) = events.try_next().await? {
                if each(event).is_break() {
                    return Ok(());
                }
            }
            bail!("the watch of {collection} has ended")
        })
    }

    /// Creates an object; `status` is written after it, as the API server takes it only by itself.
    ///
    /// # Errors
    /// It is refused.
    pub fn create(&self, object: &Value) -> Result<Value> {
        let place = place(object)?;
        let what = || format!("create {}", place.path());
        let made = self
            .request(&Method::POST, &place.collection, JSON, Some(object))?
            .object()
            .with_context(what)?;
        match object.get("status") {
            Some(status) => self.set_status(&place.path(), status),
            None => Ok(made),
        }
    }

    /// Server-side apply.
    ///
    /// # Errors
    /// There is no answer.
    pub fn try_apply(&self, object: &Value) -> Result<Answer> {
        let path = format!("{}?fieldManager={MANAGER}&force=true", place(object)?.path());
        self.request(&Method::PATCH, &path, APPLY, Some(object))
    }

    /// Server-side apply that must succeed.
    ///
    /// # Errors
    /// It is refused.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        self.try_apply(object)?.object().with_context(|| format!("apply {}", object["metadata"]))
    }

    /// A merge patch.
    ///
    /// # Errors
    /// It is refused.
    pub fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        self.request(&Method::PATCH, path, MERGE, Some(patch))?
            .object()
            .with_context(|| format!("patch {path}"))
    }

    /// Merges into the status of the object at a path.
    ///
    /// # Errors
    /// It is refused.
    pub fn set_status(&self, path: &str, status: &Value) -> Result<Value> {
        self.patch(&format!("{path}/status"), &json!({"status": status}))
    }

    /// Deletes at once, without a grace period; an object that is not there is gone already.
    ///
    /// # Errors
    /// It is refused.
    pub fn delete(&self, path: &str) -> Result<()> {
        let options = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background"});
        let answer = self.request(&Method::DELETE, path, JSON, Some(&options))?;
        ensure!(answer.is_success() || answer.status == 404, "delete {path}: {}", answer.complaint());
        Ok(())
    }

    /// Waits until the object at a path is as it should be; `check` gives a value, or nothing yet.
    ///
    /// # Errors
    /// It is not so in time; the error shows the object.
    pub fn wait_for<T>(
        &self,
        path: &str,
        deadline: Duration,
        what: &str,
        mut check: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        let mut last = Value::Null;
        let reached = wait::until(
            deadline,
            || format!("{what} ({path})"),
            || {
                let answer = self.get(path)?;
                last = if answer.is_success() { serde_json::from_str(&answer.text)? } else { Value::Null };
                Ok(check(&last))
            },
        );
        reached.with_context(|| match last.get("status") {
            Some(status) => format!("status: {status:#}"),
            None => format!("{last:#}"),
        })
    }
}
