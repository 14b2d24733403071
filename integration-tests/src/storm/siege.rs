//! A storm over a mesh during a fault.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Arena, client::Client, verdict, watcher::Watcher};
use crate::{Api, Protocol, eventually::SOON, mesh::Mesh};

const CLIENTS: usize = 6;
/// Number of results before and after the fault: enough for every kind of command.
const ANSWERS: usize = 150;
/// Pause before a watcher reconnects.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs clients before, during and after the fault `happens`. Afterwards no acknowledged command may be lost or applied
/// twice, every view must settle, and the services, the view and the bus must agree.
///
/// # Panics
/// If a check fails.
pub async fn through(mesh: &mut Mesh, what: &str, happens: impl AsyncFnOnce(&mut Mesh)) {
    let gateway = mesh.replicas("gateway")[0].address().to_owned();
    let apis = [Protocol::Direct, Protocol::Gateway, Protocol::Gateway].map(|protocol| mesh.api(protocol));
    around(&gateway, &apis, what, async || happens(mesh).await).await;
    for replica in mesh.replicas("query") {
        verdict::compare_views(replica.address()).await;
    }
}

/// Like [`through`], with clients that take turns in using these ways to the services, and without the comparison of
/// the views. The last way must lead through the gateway.
///
/// # Panics
/// If a check fails.
pub async fn around(gateway: &str, apis: &[Api], what: &str, happens: impl AsyncFnOnce()) {
    let (arena, watcher, stopping) = (Arc::new(Arena::start()), Watcher::over_any_stream(), CancellationToken::new());
    let watching = tokio::spawn(watch_on(watcher.clone(), gateway.to_owned()));
    let working: Vec<_> = apis
        .iter()
        .cycle()
        .take(CLIENTS)
        .map(|api| {
            let (api, arena, stopping) = (api.clone(), arena.clone(), stopping.clone());
            tokio::spawn(async move {
                let mut client = Client::new(rand::random());
                client.work_until(&api, &arena, &stopping).await;
                client
            })
        })
        .collect();
    let more = async |arena: &Arena| {
        let goes_on = timeout(SOON, arena.reached(arena.answered() + ANSWERS)).await;
        goes_on.unwrap_or_else(|_| panic!("{what}: clients get no more responses"));
    };
    more(&arena).await;
    happens().await;
    more(&arena).await;
    stopping.cancel();
    let mut clients = Vec::new();
    for client in working {
        clients.push(client.await.unwrap_or_else(|panic| panic!("{what}: {panic}")));
    }
    let api = apis.last().expect("a way to the services");
    for client in &mut clients {
        client.ask_everything_again(api, &arena).await;
    }
    eprintln!("{what}: {} commands answered", arena.answered());
    verdict::judge_all(api, &clients, &watcher).await;
    watching.abort();
}

/// Reconnects whenever the stream breaks.
async fn watch_on(watcher: Watcher, gateway: String) {
    loop {
        watcher.clone().watch(gateway.clone()).await;
        tokio::time::sleep(PAUSE).await;
    }
}
