//! Who asks: the bearer token that the kubeconfig, its plug-in, a flag or a file gives. It is shown to the operator alone,
//! which has the API server look at it.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{TryFutureExt, future::BoxFuture};
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt, middleware::AuthLayer},
    config::AuthInfo,
};
use tower::{BoxError, Layer, ServiceExt, service_fn};

use super::Refusal;

/// The longest token that a file may hold.
const LONGEST: u64 = 16 << 10;
/// How a token stands in a header.
const BEARER: &str = "Bearer ";

/// A file with a token. It may be a pipe, which can be read once, or may be written anew while it is used.
#[derive(Clone)]
pub struct TokenFile {
    path: PathBuf,
    last: Arc<Mutex<Option<String>>>,
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenFile").field(&self.path).finish()
    }
}

impl FromStr for TokenFile {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self { path: text.into(), last: Arc::default() })
    }
}

impl TokenFile {
    fn read(&self) -> Result<String, Refusal> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_file = fs::metadata(&self.path).is_ok_and(|m| m.is_file());
        if let (Some(token), false) = (&*last, is_file) {
            return Ok(token.clone());
        }
        match read(&self.path) {
            Ok(token) => Ok(last.insert(token).clone()),
            // As the API server's clients: what a file said last holds while it is not there.
            Err(source) => match &*last {
                Some(token) => Ok(token.clone()),
                None => Err(Refusal::TokenFile { path: self.path.clone(), source }),
            },
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(fs::File::open(path)?, LONGEST + 1), &mut text)?;
    let token = text.trim();
    match token.len() {
        0 => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
        n if n as u64 > LONGEST => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no token")),
        _ if token.contains(char::is_whitespace) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "it holds more than a token"))
        }
        _ => Ok(token.to_owned()),
    }
}

/// How the user of a kubeconfig logs in.
#[derive(Clone, Default)]
pub struct Credentials {
    /// What puts a token, or a password, into requests.
    layer: Option<Arc<AuthLayer>>,
    /// Is there a certificate?
    certificate: bool,
    /// As whom requests act.
    acts_as: Option<String>,
    /// A token for the operator alone.
    file: Option<TokenFile>,
}

impl Credentials {
    /// Those of a configuration, and a client that logs in with them. A plug-in is asked once, for both.
    ///
    /// # Errors
    /// They cannot be had, or no client be made.
    pub fn of(mut config: Config, file: Option<TokenFile>) -> Result<(Self, Client), kube::Error> {
        let layer = config.auth_layer()?.map(Arc::new);
        let user = &config.auth_info;
        let certificate = user.client_certificate.is_some() || user.client_certificate_data.is_some();
        let acts_as = user.impersonate.clone();
        let credentials = Self {
            // A plug-in may give a certificate too.
            certificate: certificate || (layer.is_none() && user.exec.is_some()),
            layer: layer.clone(),
            acts_as,
            file,
        };
        let Some(layer) = layer else { return Ok((credentials, Client::try_from(config)?)) };
        let without = AuthInfo {
            token: None,
            token_file: None,
            exec: None,
            auth_provider: None,
            username: None,
            password: None,
            ..config.auth_info
        };
        config.auth_info = without;
        let namespace = config.default_namespace.clone();
        let plain = Client::try_from(config)?;
        let send = service_fn(move |request: Request<Body>| {
            let plain = plain.clone();
            async move { plain.send(request).await.map_err(BoxError::from) }
        });
        let client = ClientBuilder::new(send, namespace).with_layer(&*layer).build();
        Ok((credentials, client))
    }

    /// `Authorization` for the operator of that namespace.
    ///
    /// # Errors
    /// There is no token.
    pub(super) async fn bearer(&self, namespace: &str) -> Result<HeaderValue, Refusal> {
        if let Some(file) = &self.file {
            let mut value = HeaderValue::try_from(format!("{BEARER}{}", file.read()?))
                .map_err(|e| Refusal::Token(e.to_string()))?;
            value.set_sensitive(true);
            return Ok(value);
        }
        if let Some(user) = &self.acts_as {
            return Err(Refusal::ActsAs { user: user.clone(), namespace: namespace.to_owned() });
        }
        let has = match &self.layer {
            None if self.certificate => "logs in with a client certificate",
            None => "has no credentials",
            Some(layer) => {
                let header = header(layer).await.map_err(|e| Refusal::Token(e.to_string()))?;
                match header.filter(|h| h.as_bytes().starts_with(BEARER.as_bytes())) {
                    Some(header) => return Ok(header),
                    None => "logs in with a password",
                }
            }
        };
        Err(Refusal::NoToken { has, namespace: namespace.to_owned() })
    }
}

/// What a layer puts into a request. Boxed, since the compiler cannot tell of its future that it may go to another thread
/// where it is part of a larger one.
fn header(layer: &AuthLayer) -> BoxFuture<'static, Result<Option<HeaderValue>, BoxError>> {
    async fn seen(request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let mut response = Response::new(Body::empty());
        if let Some(value) = request.headers().get(AUTHORIZATION) {
            response.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        Ok(response)
    }
    let asked = layer.layer(service_fn(seen)).oneshot(Request::new(Body::empty()));
    Box::pin(asked.map_ok(|response| response.headers().get(AUTHORIZATION).cloned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(user: AuthInfo, file: Option<&Path>) -> Result<Credentials, kube::Error> {
        let mut config = Config::new("https://127.0.0.1:1".parse().unwrap());
        config.auth_info = user;
        let file = file.map(|f| f.display().to_string().parse().unwrap());
        Credentials::of(config, file).map(|(credentials, _)| credentials)
    }

    async fn bearer(user: AuthInfo) -> Result<String, Refusal> {
        let header = credentials(user, None).unwrap().bearer("elf").await?;
        Ok(header.to_str().unwrap().to_owned())
    }

    /// A plug-in that says how often it was asked.
    fn plug_in(folder: &Path, status: &str) -> AuthInfo {
        let count = folder.join("asked").display().to_string();
        let script = format!(
            "echo >> {count}; echo '{{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\", \
             \"status\": {status}}}'"
        );
        let exec = serde_json::json!({
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script],
            "interactiveMode": "Never",
        });
        AuthInfo { exec: Some(serde_json::from_value(exec).unwrap()), ..AuthInfo::default() }
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("token-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[tokio::test]
    async fn a_token_is_had_wherever_the_kubeconfig_has_one() {
        let folder = folder("kinds");
        let token = AuthInfo { token: Some("t1".to_owned().into()), ..AuthInfo::default() };
        assert_eq!(bearer(token).await.unwrap(), "Bearer t1");
        let file = folder.join("file");
        fs::write(&file, "t2").unwrap();
        let of_file = AuthInfo { token_file: Some(file.display().to_string()), ..AuthInfo::default() };
        assert_eq!(bearer(of_file).await.unwrap(), "Bearer t2");
        assert_eq!(bearer(plug_in(&folder, "{\"token\": \"t3\"}")).await.unwrap(), "Bearer t3");
        // For the client and the operator it is asked once.
        assert_eq!(fs::read_to_string(folder.join("asked")).unwrap().lines().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn who_has_none_is_told_what_to_do() {
        let password = AuthInfo {
            username: Some("me".to_owned()),
            password: Some("secret".to_owned().into()),
            ..AuthInfo::default()
        };
        let told = |refusal: Result<String, Refusal>| refusal.unwrap_err().to_string();
        let text = told(bearer(password).await);
        assert!(text.contains("logs in with a password") && !text.contains("secret"), "{text}");
        let text = told(bearer(AuthInfo::default()).await);
        assert!(text.contains("has no credentials") && text.contains("kubectl create token"), "{text}");
        let certified = Credentials { certificate: true, ..Credentials::default() };
        let text = certified.bearer("elf").await.unwrap_err().to_string();
        assert!(text.contains("logs in with a client certificate"), "{text}");
        let acting = AuthInfo {
            token: Some("t".to_owned().into()),
            impersonate: Some("jane".to_owned()),
            ..AuthInfo::default()
        };
        let text = told(bearer(acting).await);
        assert!(text.contains("as jane") && text.contains("--operator-token"), "{text}");
    }

    #[tokio::test]
    async fn a_file_of_its_own_goes_first_and_may_change_or_be_a_pipe() {
        let folder = folder("own");
        let file = folder.join("token");
        let acting = AuthInfo { impersonate: Some("jane".to_owned()), ..AuthInfo::default() };
        let credentials = credentials(acting, Some(&file)).unwrap();
        let said = async || credentials.bearer("elf").await.map(|h| h.to_str().unwrap().to_owned());
        let missing = said().await.unwrap_err().to_string();
        assert!(missing.contains("--operator-token") && missing.contains("token"), "{missing}");
        fs::write(&file, "one\n").unwrap();
        assert_eq!(said().await.unwrap(), "Bearer one");
        fs::write(&file, "two\n").unwrap();
        assert_eq!(said().await.unwrap(), "Bearer two");
        fs::write(&file, "three four").unwrap();
        assert_eq!(said().await.unwrap(), "Bearer two", "what is no token does not take the place of one");
        fs::remove_file(&file).unwrap();
        assert_eq!(said().await.unwrap(), "Bearer two");
        fs::remove_dir_all(&folder).unwrap();
    }
}
