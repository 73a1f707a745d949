use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::source::kubernetes::kinds::Kind;

#[test]
fn an_empty_answer_is_believed_the_second_time() {
    let mut empty = Empty::default();
    assert!(!empty.confirmed() && empty.confirmed());
    // Nothing was known: nothing is lost.
    assert!(empty.confirmed());
    empty.heard(&News::Set(()));
    assert!(!empty.confirmed() && empty.confirmed());
    empty.listed(3);
    assert!(!empty.confirmed());
    empty.listed(1);
    assert!(!empty.confirmed(), "another answer lay between");
    empty.listed(0);
    empty.heard(&News::<()>::Alive);
    assert!(empty.confirmed());
}

#[test]
fn pauses_grow_to_their_limit_and_begin_anew() {
    let mut pauses = Pauses::new();
    let first = pauses.next();
    assert!(first >= SHORTEST_PAUSE / 2 && first < SHORTEST_PAUSE, "{first:?}");
    let last = (0..20).map(|_| pauses.next()).last().unwrap();
    assert!(last >= LONGEST_PAUSE / 2 && last < LONGEST_PAUSE, "{last:?}");
    pauses.reset();
    assert!(pauses.next() < SHORTEST_PAUSE);
}

/// What the API server says to one request.
enum Reply {
    Json(u16, Value),
    /// Events of a watch, after which it ends or stays open.
    Events(Vec<Value>, bool),
}

#[derive(Default)]
struct Script {
    replies: VecDeque<Reply>,
    /// The queries that came.
    queries: Vec<String>,
}

type Shared = Arc<Mutex<Script>>;

async fn answer(State(script): State<Shared>, request: Request) -> Response {
    let reply = {
        let mut script = script.lock().unwrap();
        script.queries.push(request.uri().query().unwrap_or_default().to_owned());
        script.replies.pop_front()
    };
    let (status, body) = match reply {
        // Nothing more is to be said: the request waits for ever.
        None => return std::future::pending().await,
        Some(Reply::Json(status, value)) => (status, Body::from(value.to_string())),
        Some(Reply::Events(events, stays)) => {
            let lines =
                futures_util::stream::iter(events.into_iter().map(|e| Ok::<_, io::Error>(format!("{e}\n"))));
            let rest = futures_util::stream::once(async move {
                if stays {
                    std::future::pending::<()>().await;
                }
                Ok(String::new())
            });
            (200, Body::from_stream(lines.chain(rest)))
        }
    };
    Response::builder().status(status).body(body).unwrap()
}

/// Names of the objects that are told, or what else is.
type Told = UnboundedReceiver<News<String>>;

/// Follows Pods at an API server that says this.
async fn followed(replies: Vec<Reply>) -> (Shared, Told) {
    let script = Shared::default();
    script.lock().unwrap().replies = replies.into();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let door = Door::to(&format!("http://{}", listener.local_addr().unwrap()));
    let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let (send, told) = unbounded_channel();
    let watched =
        Watched { resource: Kind::Pods.resource(), namespace: None, fields: Kind::Pods.fields("n1") };
    tokio::spawn(async move {
        let read = |item: Item| item.name().to_owned();
        follow(&watched, &door, read, |news| drop(send.send(news))).await;
    });
    (script, told)
}

/// The next piece of news that is more than a sign of life.
async fn next(told: &mut Told) -> News<String> {
    loop {
        let news = timeout(Duration::from_secs(10), told.recv()).await.expect("nothing is told").unwrap();
        if news != News::Alive {
            return news;
        }
    }
}

fn pod(name: &str, version: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "team", "resourceVersion": version}, "status": 7})
}

fn page(pods: &[Value], version: &str, more: &str) -> Reply {
    let metadata = json!({"resourceVersion": version, "continue": more});
    Reply::Json(200, json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": pods}))
}

fn event(what: &str, object: &Value) -> Value {
    json!({"type": what, "object": object})
}

fn failed(code: u16, message: &str) -> Reply {
    Reply::Json(
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}),
    )
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|s| (*s).to_owned()).collect()
}

#[tokio::test]
async fn a_list_comes_in_pages_and_a_watch_goes_on_where_the_last_one_was() {
    let bookmark = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}});
    let (script, mut told) = followed(vec![
        page(&[pod("a", "3")], "5", "next"),
        page(&[pod("b", "4")], "5", ""),
        Reply::Events(vec![event("ADDED", &pod("c", "6")), event("DELETED", &pod("a", "7"))], false),
        Reply::Events(vec![event("BOOKMARK", &bookmark)], false),
        Reply::Events(vec![event("MODIFIED", &pod("b", "10"))], true),
    ])
    .await;
    assert_eq!(next(&mut told).await, News::Listed(texts(&["a", "b"])));
    assert_eq!(next(&mut told).await, News::Set("c".to_owned()));
    assert_eq!(next(&mut told).await, News::Gone("a".to_owned()));
    assert_eq!(next(&mut told).await, News::Set("b".to_owned()));
    let queries = std::mem::take(&mut script.lock().unwrap().queries);
    let has = |query: &str, part: &str| query.split('&').any(|p| p.trim_start_matches('?') == part);
    assert_eq!(queries.len(), 5, "{queries:?}");
    assert!(queries.iter().all(|q| has(q, "fieldSelector=spec.nodeName%3Dn1")), "{queries:?}");
    assert!(has(&queries[0], "limit=500") && has(&queries[1], "continue=next"), "{queries:?}");
    for (query, version) in queries[2..].iter().zip(["5", "7", "9"]) {
        assert!(has(query, "watch=true") && has(query, &format!("resourceVersion={version}")), "{query}");
        assert!(has(query, "allowWatchBookmarks=true"), "{query}");
    }
}

#[tokio::test]
async fn where_the_version_is_too_old_the_list_begins_anew() {
    let gone = json!({"kind": "Status", "code": 410, "message": "too old resource version"});
    let (_, mut told) = followed(vec![
        page(&[pod("a", "3")], "5", ""),
        Reply::Events(vec![event("ERROR", &gone)], true),
        page(&[pod("b", "8")], "9", "next"),
        failed(410, "the provided continue parameter is too old"),
        page(&[pod("b", "8")], "12", ""),
    ])
    .await;
    assert_eq!(next(&mut told).await, News::Listed(texts(&["a"])));
    assert_eq!(next(&mut told).await, News::Listed(texts(&["b"])), "and not a half of it");
}

#[tokio::test]
async fn a_failure_is_told_and_the_next_watch_is_a_sign_of_life() {
    let (_, mut told) = followed(vec![
        failed(403, "pods is forbidden"),
        page(&[pod("a", "3")], "5", ""),
        failed(500, "etcd is away"),
        Reply::Events(Vec::new(), true),
    ])
    .await;
    let failing = |why: &str| News::Failing(why.to_owned());
    assert_eq!(next(&mut told).await, failing("failed to list pods: pods is forbidden"));
    assert_eq!(next(&mut told).await, News::Listed(texts(&["a"])));
    assert_eq!(next(&mut told).await, failing("failed to watch pods: etcd is away"));
    let alive = timeout(Duration::from_secs(10), told.recv()).await.unwrap();
    assert_eq!(alive, Some(News::Alive), "nothing changed, and one is in touch again");
}

#[tokio::test]
async fn an_absent_resource_and_an_empty_list_are_asked_for_twice() {
    let (_, mut told) = followed(vec![
        failed(404, "the server could not find the requested resource"),
        failed(404, "the server could not find the requested resource"),
    ])
    .await;
    let (_, mut empty) = followed(vec![page(&[], "5", ""), page(&[], "6", "")]).await;
    assert_eq!((next(&mut told).await, next(&mut empty).await), (News::EmptyOnce, News::EmptyOnce));
    assert_eq!((next(&mut told).await, next(&mut empty).await), (News::Absent, News::Listed(Vec::new())));
}
