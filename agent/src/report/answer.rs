//! Answers a question of the operator as the agent API does.

use axum::{
    Router,
    body::Body,
    http::{Request, header::CONTENT_TYPE},
};
use balancing_api::stream::AgentLine;
use futures_util::StreamExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::sync::mpsc;

/// Bytes of a part. As JSON they may become six times as many.
const PART: usize = 64 << 10;

/// Answers question `id` in lines; it ends early where nobody takes them.
pub(super) async fn answer(
    router: Router,
    id: u64,
    (method, path, body): (String, String, Option<String>),
    lines: mpsc::Sender<AgentLine>,
) {
    // Once the lines have no reader there is nobody to tell.
    let _ = told(router, id, (method, path, body), &lines).await;
    let _ = lines.send(AgentLine::End { id }).await;
}

async fn told(
    router: Router,
    id: u64,
    (method, path, body): (String, String, Option<String>),
    lines: &mpsc::Sender<AgentLine>,
) -> Result<(), mpsc::error::SendError<AgentLine>> {
    let request =
        Request::builder().method(method.as_str()).uri(path).body(Body::from(body.unwrap_or_default()));
    let Ok(request) = request else {
        let content_type = "text/plain".to_owned();
        return lines.send(AgentLine::Begin { id, status: 400, content_type }).await;
    };
    let response = match TowerToHyperService::new(router).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let kind =
        response.headers().get(CONTENT_TYPE).and_then(|h| h.to_str().ok()).unwrap_or_default().to_owned();
    lines.send(AgentLine::Begin { id, status: response.status().as_u16(), content_type: kind }).await?;
    let mut body = response.into_body().into_data_stream();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(Ok(bytes)) = body.next().await {
        rest.extend_from_slice(&bytes);
        // An event is told whole where it fits.
        while rest.len() > PART {
            let end = boundary(&rest, PART);
            send(&mut rest, end, id, lines).await?;
        }
        let end = boundary(&rest, rest.len());
        send(&mut rest, end, id, lines).await?;
    }
    let end = rest.len();
    send(&mut rest, end, id, lines).await
}

/// The last place up to `most` at which no character is cut.
fn boundary(bytes: &[u8], most: usize) -> usize {
    match std::str::from_utf8(&bytes[..most]) {
        Ok(_) => most,
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        // It is no text; it is told as well as it can be.
        Err(_) => most,
    }
}

async fn send(
    rest: &mut Vec<u8>,
    end: usize,
    id: u64,
    lines: &mpsc::Sender<AgentLine>,
) -> Result<(), mpsc::error::SendError<AgentLine>> {
    if end == 0 {
        return Ok(());
    }
    let data = String::from_utf8_lossy(&rest[..end]).into_owned();
    rest.drain(..end);
    lines.send(AgentLine::Part { id, data }).await
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    #[tokio::test]
    async fn long_answers_come_whole_in_parts_that_cut_no_character() {
        let text = "ä€".repeat(60_000);
        let told = text.clone();
        let router = Router::new().route("/x", get(async move || told));
        let (lines, mut received) = mpsc::channel(1000);
        answer(router.clone(), 7, ("GET".into(), "/x".into(), None), lines.clone()).await;
        let Some(AgentLine::Begin { id: 7, status: 200, content_type }) = received.recv().await else {
            panic!()
        };
        assert!(content_type.starts_with("text/plain"));
        let mut all = String::new();
        loop {
            match received.recv().await.unwrap() {
                AgentLine::Part { id: 7, data } => {
                    assert!(data.len() <= PART);
                    all += &data;
                }
                AgentLine::End { id: 7 } => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(all == text, "{} of {} bytes", all.len(), text.len());
        answer(router, 8, ("G T".into(), "/x".into(), None), lines).await;
        let Some(AgentLine::Begin { status: 400, .. }) = received.recv().await else { panic!() };
        assert_eq!(received.recv().await, Some(AgentLine::End { id: 8 }));
    }
}
