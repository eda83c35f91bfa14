//! Requests and answers.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::TokioExecutor,
};
use kakuremichi_core::{code::Code, secret::Secret};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};
use tower::util::BoxCloneSyncService;

use crate::{
    client::BuildError,
    error::{ApiError, Problem},
};

/// How long one attempt may take, if nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often a request is sent at most.
pub const ATTEMPTS: u32 = 4;
/// The longest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// From the first attempt to the second; then twice as long each time.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that Control can ask for and get.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

const ORGANIZATION: HeaderName = HeaderName::from_static("kakuremichi-organization");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

type Resolver = BoxCloneSyncService<Name, std::vec::IntoIter<SocketAddr>, io::Error>;

/// Sends requests to one Control, as one caller.
#[derive(Clone)]
pub(crate) struct Exchange {
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    base: Arc<str>,
    headers: Arc<HeaderMap>,
    patience: Duration,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// An answer that is none of an error.
pub(crate) struct Answer {
    headers: HeaderMap,
    bytes: Bytes,
}

impl Answer {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn body<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.bytes).map_err(|error| ApiError::Unreadable(error.to_string()))
    }
}

/// Why an attempt failed, and whether another one may do better.
enum Failed {
    /// For good.
    Ever(ApiError),
    /// For now; Control may have said for how long.
    Now(ApiError, Option<Duration>),
}

impl Exchange {
    pub(crate) fn new(
        url: &str,
        key: &Secret<String>,
        organization: Option<&str>,
        (tls, address, patience): (ClientConfig, Option<IpAddr>, Duration),
    ) -> Result<Self, BuildError> {
        let mut headers = HeaderMap::new();
        let mut bearer =
            HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|_| BuildError::Key)?;
        bearer.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, bearer);
        if let Some(organization) = organization {
            let value = HeaderValue::from_str(organization).map_err(|_| BuildError::Key)?;
            headers.insert(ORGANIZATION, value);
        }
        let mut connector = HttpConnector::new_with_resolver(resolver(address));
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(patience));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            base: format!("{url}/api/v1/").into(),
            headers: Arc::new(headers),
            patience,
        })
    }

    /// Asks until there is an answer, [`ATTEMPTS`] times at most.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
        tag: Option<&str>,
    ) -> Result<Answer, ApiError> {
        let request = self.request(method, path, body, tag)?;
        let (mut attempts, mut pause) = (1, PAUSE);
        loop {
            match self.attempt(request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Now(_, asked)) if attempts < ATTEMPTS => {
                    sleep(asked.unwrap_or(pause).min(LONGEST_PAUSE)).await;
                    attempts += 1;
                    pause *= 2;
                }
                Err(Failed::Now(error, _) | Failed::Ever(error)) => return Err(error),
            }
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
        tag: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, ApiError> {
        let unsendable = |error: http::Error| ApiError::Unsendable(error.to_string());
        let changes = !method.is_safe();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        if let Some(tag) = tag {
            request = request.header(header::IF_MATCH, tag);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if changes {
            // By it Control knows the request again, when it is sent again because its answer was lost.
            let mut key = [0; 16];
            SystemRandom::new()
                .fill(&mut key)
                .map_err(|_| ApiError::Unsendable("the system has no randomness".to_owned()))?;
            request = request.header(IDEMPOTENCY_KEY, HEXLOWER.encode(&key));
        }
        let body = Full::new(Bytes::copy_from_slice(body.unwrap_or_default()));
        let mut request = request.body(body).map_err(unsendable)?;
        for (name, value) in self.headers.iter() {
            request.headers_mut().insert(name, value.clone());
        }
        Ok(request)
    }

    async fn attempt(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failed> {
        let unreachable =
            |error: Box<dyn std::error::Error + Send + Sync>| Failed::Now(ApiError::Unreachable(error), None);
        let exchange = async {
            let response = self.client.request(request).await;
            let (head, body) = response.map_err(|error| unreachable(error.into()))?.into_parts();
            let collected = Limited::new(body, MAX_ANSWER).collect().await;
            Ok((head, collected.map_err(unreachable)?.to_bytes()))
        };
        let (head, bytes) = timeout(self.patience, exchange)
            .await
            .map_err(|elapsed| unreachable(elapsed.into()))??;
        if head.status.is_success() {
            return Ok(Answer {
                headers: head.headers,
                bytes,
            });
        }
        Err(refused(head.status, &head.headers, &bytes))
    }
}

fn refused(status: StatusCode, headers: &HeaderMap, bytes: &[u8]) -> Failed {
    let seconds = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let retry_after = seconds.map(Duration::from_secs);
    let error = match serde_json::from_slice::<Problem>(bytes) {
        Ok(problem) => ApiError::Refused(Problem {
            retry_after,
            ..problem
        }),
        Err(_) => ApiError::Unreadable(format!("status {}", status.as_u16())),
    };
    let unwell = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT
    );
    // The attempt before is still worked on: its answer is this one's.
    let busy = error
        .problem()
        .is_some_and(|problem| problem.code == Code::KEY_BUSY.as_str());
    if unwell || busy {
        Failed::Now(error, retry_after)
    } else {
        Failed::Ever(error)
    }
}

/// The system's, or one that knows one address.
fn resolver(address: Option<IpAddr>) -> Resolver {
    let resolve = tower::service_fn(move |name: Name| async move {
        let addresses: Vec<_> = match address {
            // The port is the URL's.
            Some(address) => vec![SocketAddr::new(address, 0)],
            None => tokio::net::lookup_host((name.as_str(), 0)).await?.collect(),
        };
        Ok(addresses.into_iter())
    });
    BoxCloneSyncService::new(resolve)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{Api, Organization};

    const BODY: &str =
        r#"{"id":"org_aebagbafaydqqcikbmga2dqpca","name":"a","created_at":"2026-01-02T03:04:05Z"}"#;
    const PROBLEM: &str = r#"{"type":"urn:kakuremichi:KKM-A001","title":"Bad Request","status":400,"detail":"no",
        "code":"KKM-A001","errors":[{"field":"a","message":"b"}]}"#;

    fn answer(status: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\netag: \"7\"\r\nretry-after: 0\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }

    /// Gives each connection the next answer; what was asked.
    async fn server(answers: Vec<String>) -> (Api, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; 4096];
                let read = socket.read(&mut bytes).await.unwrap();
                heard
                    .lock()
                    .unwrap()
                    .push(String::from_utf8_lossy(&bytes[..read]).into_owned());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let api = Api::builder(url, Secret::new("kkm_api_x".to_owned()))
            .build()
            .unwrap();
        (api, asked)
    }

    fn key(request: &str) -> &str {
        let line = request.lines().find(|line| line.starts_with("idempotency-key: "));
        line.unwrap().trim_start_matches("idempotency-key: ")
    }

    #[tokio::test]
    async fn a_request_is_sent_again_with_the_same_key() {
        let later = answer("503 Service Unavailable", "");
        // The first connection ends without an answer.
        let (api, asked) = server(vec![String::new(), later, answer("200 OK", BODY)]).await;
        let change = serde_json::json!({"name": "a"});
        let value = api
            .send(Method::POST, "organizations", Some(&change))
            .await
            .unwrap();
        assert_eq!(value["name"], "a");
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 3);
        assert!(asked.iter().all(|request| key(request) == key(&asked[0])));
        assert!(asked[0].contains("authorization: Bearer kkm_api_x"));
    }

    #[tokio::test]
    async fn an_answer_that_is_not_there_yet_is_waited_for() {
        let busy = PROBLEM.replace("KKM-A001", "KKM-A021");
        let (api, asked) = server(vec![answer("409 Conflict", &busy), answer("200 OK", BODY)]).await;
        api.send(Method::POST, "organizations", None).await.unwrap();
        assert_eq!(asked.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_is_refused_for_good_is_not_sent_again() {
        let (api, asked) = server(vec![answer("400 Bad Request", PROBLEM), answer("200 OK", BODY)]).await;
        let error = api.send(Method::DELETE, "nodes/x", None).await.unwrap_err();
        let problem = error.problem().unwrap();
        assert_eq!(
            (problem.code.as_str(), problem.errors[0].field.as_str()),
            ("KKM-A001", "a")
        );
        assert_eq!(asked.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn the_tag_of_what_was_read_is_known() {
        let (api, _) = server(vec![answer("200 OK", BODY)]).await;
        let id = "org_aebagbafaydqqcikbmga2dqpca".parse().unwrap();
        let organization = api.get::<Organization>(id).await.unwrap();
        assert_eq!(
            (organization.tag.as_str(), organization.value.name.as_str()),
            ("\"7\"", "a")
        );
    }
}
