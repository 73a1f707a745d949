//! `POST /validate` and `POST /mutate`, for anybody who can reach the port: bounded in size, time and number.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{Asks, Candidate, Desk, Review, Verdict};
use crate::metrics::{AdmissionLabels, Metrics};

/// The largest question: an old and a new policy, each at most what the API server stores.
const BODY: usize = 4 << 20;
/// How long a question may take to come.
const COMES: Duration = Duration::from_secs(5);
/// How long the answer may take; the API server waits a little longer.
const ANSWER: Duration = Duration::from_secs(2);
/// Bytes of a question that anybody may send. Almost all are smaller.
const SMALL: usize = 64 << 10;
/// Larger questions that are read at once: those who send such a one slowly are in the way of one another alone.
const LARGE: usize = 16;
/// Said where the answer took too long.
const BUSY: &str = "conflicts and references were not checked: the operator is busy";

struct Shared {
    desk: Desk,
    room: Semaphore,
    metrics: Metrics,
}

/// What the port serves.
pub fn router(desk: Desk, metrics: Metrics) -> Router {
    let shared = Arc::new(Shared { desk, room: Semaphore::new(LARGE), metrics });
    let validate = async |State(shared): State<Arc<Shared>>, request: Request| {
        shared.review("validate", Asks::Judgement, request.into_body()).await
    };
    let mutate = async |State(shared): State<Arc<Shared>>, request: Request| {
        shared.review("mutate", Asks::Number, request.into_body()).await
    };
    Router::new().route("/validate", post(validate)).route("/mutate", post(mutate)).with_state(shared)
}

impl Shared {
    async fn review(&self, path: &'static str, asks: Asks, body: Body) -> Response {
        let (result, response) = match self.answer(asks, body).await {
            Ok((review, verdict)) => {
                let result = if verdict.refused.is_some() {
                    "refused"
                } else if verdict.warnings.is_empty() {
                    "allowed"
                } else {
                    "warned"
                };
                (result, Json(verdict.write(&review)).into_response())
            }
            Err((status, why)) => ("failed", (status, why).into_response()),
        };
        self.metrics.admissions.get_or_create(&AdmissionLabels { path, result }).inc();
        response
    }

    async fn answer(&self, asks: Asks, body: Body) -> Result<(Review, Verdict), (StatusCode, String)> {
        let Ok(read) = timeout(COMES, read(body, &self.room)).await else {
            return Err((StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n".to_owned()));
        };
        let Some((body, _place)) = read else {
            let why = format!("the body is larger than {BODY} bytes, or ended too early\n");
            return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
        };
        let review = Review::read(&body).map_err(|e| (StatusCode::BAD_REQUEST, format!("{e}\n")))?;
        let Some(candidate) = Candidate::new(&review, Timestamp::now()) else {
            return Ok((review, Verdict::default()));
        };
        let verdict = match timeout(ANSWER, self.desk.ask(asks, candidate)).await {
            Ok(Some(verdict)) => verdict,
            // A policy is not held up by a question about it.
            Ok(None) | Err(_) if asks == Asks::Judgement => {
                Verdict { warnings: vec![BUSY.to_owned()], ..Verdict::default() }
            }
            Ok(None) | Err(_) => Verdict::default(),
        };
        Ok((review, verdict))
    }
}

/// Reads a body, and takes a place where it is a large one; nothing where it is too large or breaks off.
async fn read(body: Body, room: &Semaphore) -> Option<(Vec<u8>, Option<SemaphorePermit<'_>>)> {
    let (mut pieces, mut all, mut place) = (body.into_data_stream(), Vec::new(), None);
    while let Some(piece) = pieces.next().await {
        let piece = piece.ok()?;
        let size = all.len() + piece.len();
        if size > BODY {
            return None;
        }
        if size > SMALL && place.is_none() {
            place = Some(room.acquire().await.ok()?);
        }
        all.extend_from_slice(&piece);
    }
    Some((all, place))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde_json::{Value, json};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::{
        admission,
        port::Limits,
        testing::{
            exchange, identity, lr, policy_at, redirect, service_matcher, set_node, set_policy, set_service,
            tls_dial, tls_over, tls_port,
        },
        world::{Dirty, World},
    };

    const LIMITS: Limits = Limits {
        connections: 8,
        of_one: 8,
        handshake: Duration::from_millis(500),
        head: Duration::from_millis(500),
    };

    /// A webhook over a world in which LocalRedirectPolicy `old` holds Service `ns/dns`.
    async fn webhook() -> (SocketAddr, String, Metrics) {
        let mut world = World::default();
        for change in [
            set_node("n1", "a", "192.0.2.1"),
            set_service("dns", "10.96.0.10"),
            set_policy(policy_at(&lr("old"), 1, &redirect(&service_matcher("dns")))),
        ] {
            world.apply(change, &mut Dirty::default());
        }
        let (desk, mut questions) = Desk::new(4);
        tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                admission::answer(question, &mut world, true);
            }
        });
        let (identity, metrics) = (identity(), Metrics::default());
        let address = tls_port(router(desk, metrics.clone()), LIMITS, || None, &identity).await;
        (address, identity.1, metrics)
    }

    fn post(path: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    fn review(name: &str) -> String {
        let object = json!({
            "apiVersion": "balancing.elf.io/v1beta1", "kind": "LocalRedirectPolicy", "metadata": {"name": name},
            "spec": redirect(&service_matcher("dns")),
        });
        let kind = json!({"group": "balancing.elf.io", "version": "v1beta1", "kind": "LocalRedirectPolicy"});
        json!({"request": {"uid": "u1", "kind": kind, "operation": "CREATE", "object": object}}).to_string()
    }

    fn response(answer: &str) -> Value {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str::<Value>(body).unwrap()["response"].clone()
    }

    #[tokio::test]
    async fn it_warns_and_numbers() {
        let (address, bundle, metrics) = webhook().await;
        let judged = response(&exchange(address, &bundle, &post("/validate", &review("new"))).await);
        assert_eq!((&judged["uid"], &judged["allowed"]), (&json!("u1"), &json!(true)));
        assert!(judged["warnings"][0].as_str().unwrap().contains("LocalRedirectPolicy/old"), "{judged}");
        let numbered = response(&exchange(address, &bundle, &post("/mutate", &review("new"))).await);
        assert_eq!((&numbered["allowed"], &numbered["patchType"]), (&json!(true), &json!("JSONPatch")));
        let counted =
            |path, result| metrics.admissions.get_or_create(&AdmissionLabels { path, result }).get();
        assert_eq!((counted("validate", "warned"), counted("mutate", "allowed")), (1, 1));
    }

    #[tokio::test]
    async fn nothing_brings_it_down() {
        let (address, bundle, _) = webhook().await;
        let ask = |request: Vec<u8>| exchange_owned(address, bundle.clone(), request);
        for (path, body, status) in [
            ("/validate", "{", 400),
            ("/validate", "[]", 400),
            ("/validate", "{\"request\": {\"uid\": \"u\", \"kind\": {\"kind\": \"Pod\"}}}", 400),
            ("/validate", "{\"request\": {\"uid\": 7}}", 400),
            ("/nowhere", "{}", 404),
        ] {
            let answer = ask(post(path, body)).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {body}: {answer}");
        }
        // A body without end, one that is not JSON at all, nesting, a head without end.
        let huge = post("/validate", &"x".repeat(BODY + 1));
        assert!(ask(huge).await.starts_with("HTTP/1.1 413"), "too large");
        assert!(ask(post("/mutate", &"[".repeat(100_000))).await.starts_with("HTTP/1.1 400"), "nested");
        let head = format!("POST /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)).into_bytes();
        assert!(!ask(head).await.starts_with("HTTP/1.1 200"));
        // No TLS at all; a handshake, and a head, that never come, as many as there is room for.
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(&[0x16, 3, 1, 0xff, 0xff]).await.unwrap();
        plain.write_all(&[0; 4096]).await.unwrap();
        let mut silent = Vec::new();
        for _ in 0..LIMITS.connections / 2 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut slow = tls_dial(address, &bundle).await.unwrap();
        slow.write_all(b"POST /validate HTTP/1.1\r\nHost").await.unwrap();
        let judged = response(&ask(post("/validate", &review("new"))).await);
        assert_eq!(judged["allowed"], true);
        // They end by themselves.
        let mut rest = Vec::new();
        for mut stream in silent {
            let _ = stream.read_to_end(&mut rest).await;
        }
        let _ = slow.read_to_end(&mut rest).await;
    }

    #[tokio::test]
    async fn slow_senders_hold_up_nobody_but_one_another() {
        let identity = identity();
        let (desk, mut questions) = Desk::new(4);
        tokio::spawn(async move {
            let mut world = World::default();
            while let Some(question) = questions.recv().await {
                admission::answer(question, &mut world, true);
            }
        });
        let limits = Limits { connections: 200, of_one: 200, head: Duration::from_secs(5), ..LIMITS };
        let address = tls_port(router(desk, Metrics::default()), limits, || None, &identity).await;
        let mut slow = Vec::new();
        // Bodies that begin and never end: more small and more large ones than are read at once.
        for begun in [1, SMALL + 1].into_iter().flat_map(|size| std::iter::repeat_n(size, 2 * LARGE)) {
            let mut stream = tls_dial(address, &identity.1).await.unwrap();
            let head = format!("POST /validate HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&vec![b' '; begun]).await.unwrap();
            stream.flush().await.unwrap();
            slow.push(stream);
        }
        let began = std::time::Instant::now();
        let judged = response(&exchange(address, &identity.1, &post("/validate", &review("new"))).await);
        assert_eq!(judged["allowed"], true);
        assert!(began.elapsed() < Duration::from_secs(2), "it waited for those who were there");
        // Their time ends, and a large question is read again.
        drop(slow);
        let mut large = review("new");
        large.insert_str(large.len() - 1, &" ".repeat(2 * SMALL));
        let judged = response(&exchange(address, &identity.1, &post("/validate", &large)).await);
        assert_eq!(judged["allowed"], true);
    }

    async fn exchange_owned(address: SocketAddr, bundle: String, request: Vec<u8>) -> String {
        exchange(address, &bundle, &request).await
    }

    #[tokio::test]
    async fn one_address_does_not_take_all_the_room_and_frees_it_again() {
        let limits = Limits { connections: 8, of_one: 2, ..LIMITS };
        let identity = identity();
        let (desk, _questions) = Desk::new(1);
        let address = tls_port(router(desk, Metrics::default()), limits, || None, &identity).await;
        let held =
            [tls_dial(address, &identity.1).await.unwrap(), tls_dial(address, &identity.1).await.unwrap()];
        tls_dial(address, &identity.1).await.expect_err("the third of this address");
        drop(held);
        let freed = tokio::time::timeout(Duration::from_secs(10), async {
            while tls_dial(address, &identity.1).await.is_err() {
                tokio::task::yield_now().await;
            }
        });
        freed.await.expect("the room is free again");
    }

    #[tokio::test]
    async fn where_all_room_is_taken_whoever_has_the_most_makes_some() {
        let slow = Duration::from_secs(60);
        let limits = Limits { connections: 6, of_one: 6, handshake: slow, head: slow };
        let identity = identity();
        let (desk, _questions) = Desk::new(1);
        let address = tls_port(router(desk, Metrics::default()), limits, || None, &identity).await;
        let from = async |source: &str| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
            tls_over(socket.connect(address).await.unwrap(), &identity.1).await
        };
        let one = from("127.0.0.9").await.unwrap();
        let mut many = Vec::new();
        for _ in 0..5 {
            many.push(from("127.0.0.2").await.unwrap());
        }
        // Nobody waits for the five, who say nothing: the first of them goes.
        let begun = std::time::Instant::now();
        let others = [from("127.0.0.3").await.unwrap(), from("127.0.0.9").await.unwrap()];
        let mut rest = Vec::new();
        for closed in &mut many[..2] {
            let _ = closed.read_to_end(&mut rest).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        // Of those who have the most themselves nobody more comes in.
        from("127.0.0.2").await.expect_err("it has the most");
        for mut stream in others.into_iter().chain([one, many.pop().unwrap()]) {
            stream.write_all(b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
    }

    #[tokio::test]
    async fn who_does_not_lead_passes_on() {
        let (address, bundle, metrics) = webhook().await;
        let standby = identity();
        let at = tls_port(Router::new(), LIMITS, move || Some(address), &standby).await;
        // The leader's own certificate is seen: the bytes go through as they are.
        let judged = response(&exchange(at, &bundle, &post("/validate", &review("new"))).await);
        assert_eq!(judged["allowed"], true);
        assert_eq!(
            metrics.admissions.get_or_create(&AdmissionLabels { path: "validate", result: "warned" }).get(),
            1
        );
    }

    #[tokio::test]
    async fn a_loop_that_does_not_answer_holds_no_policy_up() {
        let identity = identity();
        let (desk, questions) = Desk::new(1);
        let address = tls_port(router(desk, Metrics::default()), LIMITS, || None, &identity).await;
        let first = response(&exchange(address, &identity.1, &post("/validate", &review("new"))).await);
        assert_eq!((&first["allowed"], &first["warnings"]), (&json!(true), &json!([BUSY])));
        drop(questions);
        let second = response(&exchange(address, &identity.1, &post("/mutate", &review("new"))).await);
        assert_eq!(second, json!({"uid": "u1", "allowed": true}));
    }
}
