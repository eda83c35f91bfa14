//! An axum app, public at a host name, in a process without a local port; it prints who visits.
//!
//! ```text
//! cargo run -p kakuremichi-examples --example embed_axum -- https://control.example.net AGENT-TOKEN DIR HOST
//! ```
#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{path::Path, time::Duration};

use axum::{Router, extract::ConnectInfo, routing::get};
use kakuremichi_examples::{Error, interrupted};
use kakuremichi_tunnel::{Agent, Service, agent::Visitor};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, dir, host] = arguments.as_slice() else {
        return Err("usage: embed_axum CONTROL-URL AGENT-TOKEN DIR HOST".into());
    };
    run(url, token, Path::new(dir), host, interrupted()).await
}

/// Serves the app at `host` until `stop` ends.
async fn run(
    url: &str,
    token: &str,
    dir: &Path,
    host: &str,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let agent = Agent::builder(url, token).state_dir(dir).spawn().await?;
    let listener = agent.expose(Service::http(host).public()).await?;
    println!("serving at {}", listener.url());

    let app = app().into_make_service_with_connect_info::<Visitor>();
    tokio::select! {
        served = axum::serve(listener, app) => served?,
        reason = agent.closed() => return Err(reason.into()),
        () = stop => {}
    }
    let report = agent.shutdown(Duration::from_secs(10)).await;
    println!("stopped; connections cut: {}", report.cut);
    Ok(())
}

fn app() -> Router {
    Router::new().route("/", get(greet))
}

async fn greet(ConnectInfo(visitor): ConnectInfo<Visitor>) -> String {
    println!("{} came through {}", visitor.source(), visitor.gateway());
    match visitor.principal() {
        Some(principal) => format!("Hello {}!\n", principal.subject()),
        None => format!("Hello {}!\n", visitor.source().ip()),
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_examples::Playground;
    use kakuremichi_tests::{Visitor as Browser, wait};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_app_knows_who_visits() {
        let world = Playground::start().await.unwrap();
        let token = world.agent_token("*.localhost", "1-65535").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (url, path) = (world.control_url(), dir.path().to_owned());
        let example = tokio::spawn(async move {
            let stop = async { drop(stopped.await) };
            run(&url, token.expose(), &path, "app.localhost", stop).await
        });
        let url = format!("https://app.localhost:{}/", world.https_address().port());
        let browser = Browser::trusting(&[world.ca()]);
        let page = wait::until_async("the page", async || {
            browser.get(&url).await.ok().filter(|page| page.status == 200)
        });
        assert_eq!(page.await.text(), "Hello 127.0.0.1!\n");
        drop(stop);
        example.await.unwrap().unwrap();
    }
}
