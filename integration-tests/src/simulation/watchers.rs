//! Clients that watch views, lose their connections, and resume with their token at any replica.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use eticket_proto::ids::TicketId;
use eticket_query::{
    application::{
        ViewStore, Watched,
        watch::{ResumePoint, Sent},
    },
    domain::View,
};
use tokio_util::sync::CancellationToken;

use super::{replicas::Fleet, scheduler::locked, wrong::Wrong};

/// What a watcher has received.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) rows: BTreeMap<TicketId, View>,
    token: Option<ResumePoint>,
}

impl Seen {
    fn take(&mut self, sent: Sent) {
        self.rows.extend(sent.row.map(|(id, view)| (id, View::clone(&view))));
        self.token = sent.resume.or(self.token.take());
    }
}

/// A watcher, and the rows that it watches.
pub(super) struct Watcher {
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) watched: Watched,
}

/// Starts the watchers; they run until the end of the simulation.
pub(super) fn start(fleet: &Fleet) -> Vec<Watcher> {
    let one = BTreeSet::from(["t-0".parse().expect("an id")]);
    let watched = [Watched::All, Watched::These(one)];
    let watchers = watched.into_iter().enumerate().map(|(number, watched)| {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        tokio::spawn(watch(fleet.clone(), format!("watcher-{number}"), watched.clone(), seen.clone()));
        Watcher { seen, watched }
    });
    watchers.collect()
}

async fn watch(fleet: Fleet, name: String, watched: Watched, seen: Arc<Mutex<Seen>>) {
    loop {
        fleet.scheduler.sleep(1..=300).await;
        let numbers: Vec<usize> = (0..2).filter(|number| fleet.views[*number].get().is_some()).collect();
        let Some(number) = fleet.scheduler.pick(&numbers).copied() else { continue };
        let Some((views, process_state)) = fleet.views[number].get() else { continue };
        let token = locked(&seen).token.clone();
        let token = as_sent(&fleet, number, token).await;
        // Without the mark, which is made of a random id.
        let place = token.as_ref().map(|token| (&token.epoch, token.sequence));
        fleet.scheduler.log(&name, &format!("watches at query-{number} from {place:?}"));
        let stays = match fleet.scheduler.is_calm() {
            true => Duration::MAX,
            false => Duration::from_millis(fleet.scheduler.number(10..=2_500)),
        };
        let watching = async {
            let Ok(mut watch) = views.watch(watched.clone(), token, CancellationToken::new()).await else { return };
            while let Ok(sent) = watch.next().await {
                if let Some((ticket, view)) = &sent.row {
                    fleet.scheduler.log(&name, &format!("sees {ticket} at {}", view.sequence));
                }
                locked(&seen).take(sent);
            }
            fleet.scheduler.count("a watch was ended by its replica");
        };
        tokio::select! {
            biased;
            () = process_state.kill_switch.died() => {}
            () = fleet.ceased.cancelled(), if !fleet.scheduler.is_calm() => {}
            () = watching => {}
            () = tokio::time::sleep(stays) => {}
        }
    }
}

/// Returns the token in its sent form.
async fn as_sent(fleet: &Fleet, number: usize, token: Option<ResumePoint>) -> Option<ResumePoint> {
    let token = token?;
    match fleet.wrong {
        // Without the mark, which would show that the token means another message.
        Some(Wrong::TokenWithoutIdentity) => {
            let position = fleet.shown(number).position().await.ok().flatten()?;
            Some(ResumePoint { epoch: position.epoch, mark: 0, ..token })
        }
        Some(Wrong::TokenCountsTheReplicasChanges) => Some(ResumePoint { mark: 0, ..token }),
        _ => Some(token),
    }
}
