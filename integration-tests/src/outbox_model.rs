//! A model of the outbox on a shared store: small enough to visit every interleaving of commits, claims, publications,
//! deletions, adoptions, deaths of processes and crashes of the bus.
//!
//! Rows are numbered in the order of their preparation. A row is a newer state of its subject than all rows of the subject
//! before it. `docs/decisions.md` describes the protocol, ARCHITECTURE.md its invariants i and l.

mod rows;
mod search;

use self::rows::{Row, Rows};
pub use self::search::{Found, Model, search};

/// Sessions are numbered from 1.
type Session = u8;

/// The size of a system, and how often each fault may occur.
#[derive(Debug, Clone, Copy)]
pub struct Outbox {
    pub processes: u8,
    pub rows: u8,
    pub subjects: u8,
    /// Number of messages of a subject that the stream keeps.
    pub kept: usize,
    pub faults: Faults,
    pub rules: Rules,
}

/// How often each fault may occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults {
    /// A process dies.
    pub deaths: u8,
    /// The bus loses any part of what is not durable.
    pub crashes: u8,
    /// A process does not learn the outcome of a commit.
    pub doubts: u8,
    /// An acknowledgement is lost.
    pub lost_acknowledgements: u8,
    /// The store ends the session of a process that lives.
    pub ended_sessions: u8,
}

/// The guards, each of which a test breaks.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A row goes to the relay after its commit.
    pub after_commit: bool,
    /// Maximum number of rows of a subject in a claim.
    pub newest: usize,
    /// Rows of a session that has ended are adopted.
    pub adopted: bool,
    /// A commit in doubt is followed by another session.
    pub another_session: bool,
    /// A row whose publication was in doubt is sent again only if the stream has neither it nor a newer one.
    pub looks_first: bool,
    /// A row stays until its message is durable.
    pub held: bool,
    /// What another server process has acknowledged is sent again.
    pub sent_again: bool,
}

impl Rules {
    /// The protocol.
    pub const ALL: Self = Self {
        after_commit: true,
        newest: 1,
        adopted: true,
        another_session: true,
        looks_first: true,
        held: true,
        sent_again: true,
    };
}

/// A row of a claim, with those that it supersedes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Claimed {
    row: Row,
    superseded: Rows,
}

impl Claimed {
    fn rows(&self) -> Rows {
        Rows::one(self.row).and(self.superseded)
    }
}

/// Rows that are on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sent {
    rows: Rows,
    server: u8,
    /// The sync interval has passed.
    is_old: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    lives: bool,
    session: Session,
    /// The row of an open transaction; 0 without one.
    preparing: Row,
    queue: Rows,
    doubtful: Rows,
    claim: Vec<Claimed>,
    /// The row that is being published.
    publishing: Option<Claimed>,
    sent: Vec<Sent>,
}

impl Process {
    /// The rows that are in memory.
    fn known(&self) -> Rows {
        let claimed: Rows = self.claim.iter().chain(&self.publishing).map(Claimed::rows).collect();
        let sent: Rows = self.sent.iter().map(|sent| sent.rows).collect();
        self.queue.and(claimed).and(sent)
    }

    fn is_at_rest(&self) -> bool {
        self.preparing == 0 && self.known().is_empty()
    }

    /// Gives a row back, with all later ones of its subject.
    fn give_back(&mut self, failed: Claimed, subjects: u8) {
        let of_subject = |one: &Claimed| one.row % subjects == failed.row % subjects;
        let back: Rows = self.claim.iter().filter(|one| of_subject(one)).chain([&failed]).map(Claimed::rows).collect();
        self.claim.retain(|one| !of_subject(one));
        self.queue = self.queue.and(back);
        self.doubtful = self.doubtful.and(Rows::one(failed.row));
    }
}

/// A state of the system.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The last row that was prepared.
    prepared: Row,
    committed: Rows,
    table: Rows,
    /// Commits whose process does not know the outcome.
    in_doubt: Rows,
    /// The session that owns each row.
    owner: [Session; 8],
    /// The last session that was begun.
    sessions: Session,
    processes: Vec<Process>,
    stream: Vec<Row>,
    /// The number of messages at the start of the stream that are durable.
    durable: usize,
    /// Messages of dead processes that still arrive, or not.
    late: Vec<Row>,
    server: u8,
    left: Faults,
}

/// A step.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    Prepare(usize),
    Commit(usize),
    LoseContact(usize),
    CommitLate(Row),
    AbortLate(Row),
    Claim(usize),
    /// The next row of this place in the claim.
    Publish(usize, usize),
    Arrive {
        process: usize,
        acknowledged: bool,
    },
    ArriveLate(Row),
    NeverArrive(Row),
    Sync,
    Delete(usize),
    Notice(usize),
    Adopt(usize, Session),
    EndSession(usize),
    Die(usize),
    Crash {
        left: usize,
    },
}

impl Outbox {
    fn subject(&self, row: Row) -> u8 {
        row % self.subjects
    }

    /// The rows that a process may adopt from a session.
    fn orphans(&self, state: &State, process: usize, session: Session) -> Rows {
        let lives = state.processes.iter().any(|other| other.lives && other.session == session);
        if !self.rules.adopted || lives {
            return Rows::default();
        }
        let known = state.processes[process].known();
        state.table.filter(|row| state.owner[usize::from(row)] == session && !known.has(row))
    }

    fn counts_as_durable(&self, state: &State, sent: &Sent) -> bool {
        sent.is_old && (sent.server == state.server || !self.rules.sent_again)
    }

    fn begin_session(state: &mut State, process: usize) {
        state.sessions += 1;
        state.processes[process].session = state.sessions;
    }

    fn prepare(&self, state: &mut State, number: usize) {
        state.prepared += 1;
        let (row, process) = (state.prepared, &mut state.processes[number]);
        process.preparing = row;
        state.owner[usize::from(row)] = process.session;
        if !self.rules.after_commit {
            process.queue = process.queue.and(Rows::one(row));
        }
    }

    fn commit(&self, state: &mut State, number: usize) {
        let process = &mut state.processes[number];
        let row = Rows::one(std::mem::take(&mut process.preparing));
        if self.rules.after_commit {
            process.queue = process.queue.and(row);
        }
        (state.committed, state.table) = (state.committed.and(row), state.table.and(row));
    }

    fn append(&self, state: &mut State, row: Row) {
        state.stream.push(row);
        let same = |other: &Row| self.subject(*other) == self.subject(row);
        if state.stream.iter().filter(|other| same(other)).count() > self.kept
            && let Some(oldest) = state.stream.iter().position(same)
        {
            state.stream.remove(oldest);
            state.durable -= usize::from(oldest < state.durable);
        }
    }

    fn acknowledge(&self, state: &mut State, process: usize, claimed: Claimed) {
        let rows = claimed.rows();
        if !self.rules.held {
            state.table = state.table.without(rows);
            return;
        }
        let server = state.server;
        let sent = &mut state.processes[process].sent;
        sent.push(Sent { rows, server, is_old: false });
        sent.sort_unstable_by_key(|sent| (sent.rows.bits(), sent.server, sent.is_old));
        sent.dedup();
    }

    fn claim(&self, process: &mut Process) {
        for subject in 0..self.subjects {
            let rows: Vec<Row> = process.queue.iter().filter(|row| self.subject(*row) == subject).collect();
            let (older, newest) = rows.split_at(rows.len().saturating_sub(self.rules.newest));
            let older: Rows = older.iter().map(|row| Rows::one(*row)).collect();
            let claimed = newest.iter().enumerate().map(|(place, row)| Claimed {
                row: *row,
                superseded: if place == 0 { older } else { Rows::default() },
            });
            process.claim.extend(claimed);
        }
        process.queue = Rows::default();
    }

    fn publish(&self, state: &mut State, number: usize, place: usize) {
        let claimed = state.processes[number].claim.remove(place);
        let row = claimed.row;
        let is_there = state.stream.iter().any(|other| self.subject(*other) == self.subject(row) && *other >= row);
        let process = &mut state.processes[number];
        let is_doubtful = process.doubtful.has(row);
        process.doubtful = process.doubtful.without(Rows::one(row));
        if is_doubtful && self.rules.looks_first && is_there {
            self.acknowledge(state, number, claimed);
        } else {
            process.publishing = Some(claimed);
        }
    }

    fn arrive(&self, state: &mut State, number: usize, acknowledged: bool) {
        let Some(claimed) = state.processes[number].publishing.take() else { return };
        self.append(state, claimed.row);
        if acknowledged {
            self.acknowledge(state, number, claimed);
        } else {
            state.left.lost_acknowledgements -= 1;
            state.processes[number].give_back(claimed, self.subjects);
        }
    }

    fn die(state: &mut State, number: usize) {
        let session = state.processes[number].session;
        let process = &mut state.processes[number];
        if process.preparing != 0 {
            state.in_doubt = state.in_doubt.and(Rows::one(process.preparing));
        }
        if let Some(claimed) = process.publishing {
            state.late.push(claimed.row);
            state.late.sort_unstable();
        }
        *process = Process { lives: false, session, ..new_process(session) };
    }

    fn crash(&self, state: &mut State, left: usize) {
        state.server += 1;
        state.stream.truncate(left);
        state.durable = left;
        state.late.clear();
        for process in &mut state.processes {
            if let Some(failed) = process.publishing.take() {
                process.give_back(failed, self.subjects);
            }
        }
    }

    fn actions_of(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let process = &state.processes[number];
        let left = state.left;
        let is_locked = |subject: u8| {
            let preparing = state.processes.iter().map(|process| process.preparing).filter(|row| *row != 0);
            preparing.chain(state.in_doubt.iter()).any(|row| self.subject(row) == subject)
        };
        if process.preparing != 0 {
            actions.push(Action::Commit(number));
            actions.extend((left.doubts > 0).then_some(Action::LoseContact(number)));
        } else if state.prepared < self.rows && !is_locked(self.subject(state.prepared + 1)) {
            actions.push(Action::Prepare(number));
        }
        match process.publishing {
            Some(_) => {
                actions.push(Action::Arrive { process: number, acknowledged: true });
                let lost = Action::Arrive { process: number, acknowledged: false };
                actions.extend((left.lost_acknowledgements > 0).then_some(lost));
            }
            None if process.claim.is_empty() => {
                actions.extend((!process.queue.is_empty()).then_some(Action::Claim(number)));
            }
            None => {
                let is_first = |place: usize| {
                    let subject = self.subject(process.claim[place].row);
                    !process.claim[..place].iter().any(|one| self.subject(one.row) == subject)
                };
                let places = (0..process.claim.len()).filter(|place| is_first(*place));
                actions.extend(places.map(|place| Action::Publish(number, place)));
            }
        }
        let is_durable = |sent: &Sent| self.counts_as_durable(state, sent);
        actions.extend(process.sent.iter().any(is_durable).then_some(Action::Delete(number)));
        let is_foreign = |sent: &Sent| self.rules.sent_again && sent.server != state.server;
        actions.extend(process.sent.iter().any(is_foreign).then_some(Action::Notice(number)));
        let orphaned = (1..=state.sessions).filter(|session| !self.orphans(state, number, *session).is_empty());
        actions.extend(orphaned.map(|session| Action::Adopt(number, session)));
        actions.extend((left.ended_sessions > 0 && process.preparing == 0).then_some(Action::EndSession(number)));
        let others = state.processes.iter().filter(|process| process.lives).count() - 1;
        actions.extend((left.deaths > 0 && others > 0).then_some(Action::Die(number)));
    }
}

fn new_process(session: Session) -> Process {
    let (queue, doubtful) = (Rows::default(), Rows::default());
    let (claim, sent) = (Vec::new(), Vec::new());
    Process { lives: true, session, preparing: 0, queue, doubtful, claim, publishing: None, sent }
}

impl Model for Outbox {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        let sessions = self.processes;
        State {
            prepared: 0,
            committed: Rows::default(),
            table: Rows::default(),
            in_doubt: Rows::default(),
            owner: [0; 8],
            sessions,
            processes: (1..=sessions).map(new_process).collect(),
            stream: Vec::new(),
            durable: 0,
            late: Vec::new(),
            server: 0,
            left: self.faults,
        }
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        for number in (0..state.processes.len()).filter(|number| state.processes[*number].lives) {
            self.actions_of(state, number, &mut actions);
        }
        actions.extend(state.in_doubt.iter().flat_map(|row| [Action::CommitLate(row), Action::AbortLate(row)]));
        actions.extend(state.late.iter().flat_map(|row| [Action::ArriveLate(*row), Action::NeverArrive(*row)]));
        let is_young = |sent: &Sent| !sent.is_old;
        let waits = state.processes.iter().any(|process| process.sent.iter().any(is_young));
        actions.extend((waits || state.durable < state.stream.len()).then_some(Action::Sync));
        if state.left.crashes > 0 {
            actions.extend((state.durable..=state.stream.len()).map(|left| Action::Crash { left }));
        }
        actions
    }

    fn step(&self, state: &State, action: Action) -> State {
        let mut next = state.clone();
        match action {
            Action::Prepare(number) => self.prepare(&mut next, number),
            Action::Commit(number) => self.commit(&mut next, number),
            Action::LoseContact(number) => {
                next.left.doubts -= 1;
                let row = std::mem::take(&mut next.processes[number].preparing);
                next.in_doubt = next.in_doubt.and(Rows::one(row));
                if self.rules.another_session {
                    Self::begin_session(&mut next, number);
                }
            }
            Action::CommitLate(row) => {
                let row = Rows::one(row);
                next.in_doubt = next.in_doubt.without(row);
                (next.committed, next.table) = (next.committed.and(row), next.table.and(row));
            }
            Action::AbortLate(row) => next.in_doubt = next.in_doubt.without(Rows::one(row)),
            Action::Claim(number) => self.claim(&mut next.processes[number]),
            Action::Publish(number, place) => self.publish(&mut next, number, place),
            Action::Arrive { process, acknowledged } => self.arrive(&mut next, process, acknowledged),
            Action::ArriveLate(row) | Action::NeverArrive(row) => {
                if let Some(place) = next.late.iter().position(|other| *other == row) {
                    next.late.remove(place);
                }
                if matches!(action, Action::ArriveLate(_)) {
                    self.append(&mut next, row);
                }
            }
            Action::Sync => {
                next.durable = next.stream.len();
                next.processes.iter_mut().flat_map(|process| &mut process.sent).for_each(|sent| sent.is_old = true);
            }
            Action::Delete(number) => {
                let is_durable = |sent: &Sent| self.counts_as_durable(state, sent);
                let old = next.processes[number].sent.iter().filter(|sent| is_durable(sent));
                next.table = next.table.without(old.map(|sent| sent.rows).collect());
                next.processes[number].sent.retain(|sent| !is_durable(sent));
            }
            Action::Notice(number) => {
                let process = &mut next.processes[number];
                let foreign = process.sent.extract_if(.., |sent| sent.server != next.server);
                let foreign: Rows = foreign.map(|sent| sent.rows).collect();
                process.queue = process.queue.and(foreign);
            }
            Action::Adopt(number, session) => {
                let rows = self.orphans(&next, number, session);
                let process = &mut next.processes[number];
                process.queue = process.queue.and(rows);
                rows.iter().for_each(|row| next.owner[usize::from(row)] = process.session);
            }
            Action::EndSession(number) => {
                next.left.ended_sessions -= 1;
                Self::begin_session(&mut next, number);
            }
            Action::Die(number) => {
                next.left.deaths -= 1;
                Self::die(&mut next, number);
            }
            Action::Crash { left } => {
                next.left.crashes -= 1;
                self.crash(&mut next, left);
            }
        }
        next
    }

    fn check(&self, state: &State) -> Result<(), String> {
        if let Some(row) = state.stream.iter().find(|row| !state.committed.has(**row)) {
            return Err(format!("row {row} is on the stream and not committed"));
        }
        let living = || state.processes.iter().enumerate().filter(|(_, process)| process.lives);
        let adopts = |number: usize| (1..=state.sessions).any(|of| !self.orphans(state, number, of).is_empty());
        let is_at_rest = living().all(|(number, process)| process.is_at_rest() && !adopts(number));
        if !is_at_rest || !state.in_doubt.is_empty() || !state.late.is_empty() {
            return Ok(());
        }
        for subject in 0..self.subjects {
            let newest = state.committed.iter().rfind(|row| self.subject(*row) == subject);
            if let Some(newest) = newest.filter(|newest| !state.stream.contains(newest)) {
                return Err(format!("row {newest} is the newest of its subject, not on {:?}", state.stream));
            }
        }
        match state.table.is_empty() {
            true => Ok(()),
            false => Err(format!("{:?} stay in the outbox", state.table.iter().collect::<Vec<_>>())),
        }
    }
}
