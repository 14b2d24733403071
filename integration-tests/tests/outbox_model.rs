//! Visits all states of small systems of the outbox, and shows that each of its guards is needed.

use eticket_integration_tests::outbox_model::{Faults, Found, Outbox, Rules, search};

/// More than the largest system here has.
const MOST: usize = 3_000_000;

const NO_FAULTS: Faults = Faults { deaths: 0, crashes: 0, doubts: 0, lost_acknowledgements: 0, ended_sessions: 0 };

/// Two processes that write one aggregate, with as many kept messages as needed.
fn one_subject(rows: u8, faults: Faults) -> Outbox {
    let Faults { deaths, crashes, ended_sessions, .. } = faults;
    // The newest one; two claims of the other process, also after a crash of the bus; of each process that died the
    // message on its way and a claim of the other one; two claims of the process that adopts rows of a living one.
    let kept = 1 + 2 * (1 + crashes) + 2 * deaths + 2 * ended_sessions;
    Outbox { processes: 2, rows, subjects: 1, kept: kept.into(), faults, rules: Rules::ALL }
}

fn two_subjects(rows: u8, faults: Faults) -> Outbox {
    Outbox { subjects: 2, ..one_subject(rows, faults) }
}

fn holds(name: &str, outbox: &Outbox) {
    let Found { states, all, violation } = search(outbox, MOST);
    println!("{name}: {states} states");
    assert_eq!(violation, None, "{name}");
    assert!(all, "{name}: more than {states} states");
}

/// Returns the broken invariant.
fn broken(name: &str, outbox: &Outbox) -> String {
    let Found { states, violation, .. } = search(outbox, MOST);
    let (broken, steps) = violation.unwrap_or_else(|| panic!("{name}: nothing is wrong in {states} states"));
    println!("{name}: {broken} after {} steps", steps.len());
    broken
}

fn without(outbox: Outbox, remove: fn(&mut Rules)) -> Outbox {
    let mut rules = outbox.rules;
    remove(&mut rules);
    Outbox { rules, ..outbox }
}

#[test]
fn the_newest_states_reach_the_stream_and_the_outbox_empties() {
    holds("no fault", &two_subjects(4, NO_FAULTS));
    holds("one aggregate", &one_subject(4, NO_FAULTS));
    holds("a process dies", &two_subjects(3, Faults { deaths: 1, ..NO_FAULTS }));
    holds("the bus crashes", &two_subjects(3, Faults { crashes: 1, ..NO_FAULTS }));
    holds("the bus crashes twice", &one_subject(2, Faults { crashes: 2, ..NO_FAULTS }));
    holds("the outcome of a commit is unknown", &two_subjects(3, Faults { doubts: 1, ..NO_FAULTS }));
    holds("the session of a living process ends", &one_subject(3, Faults { ended_sessions: 1, ..NO_FAULTS }));
    holds("acknowledgements are lost", &one_subject(2, Faults { lost_acknowledgements: 4, ..NO_FAULTS }));
    let each = Faults { deaths: 1, crashes: 1, doubts: 1, lost_acknowledgements: 1, ended_sessions: 0 };
    holds("each fault once", &one_subject(2, each));
}

#[test]
fn each_guard_is_needed() {
    let crash = two_subjects(3, Faults { crashes: 1, ..NO_FAULTS });
    let doubt = two_subjects(3, Faults { doubts: 1, ..NO_FAULTS });
    let death = two_subjects(3, Faults { deaths: 1, ..NO_FAULTS });
    let lost = one_subject(2, Faults { lost_acknowledgements: 4, ..NO_FAULTS });
    let one = one_subject(4, NO_FAULTS);
    for (name, outbox, expected) in [
        ("sent before the commit", without(doubt, |rules| rules.after_commit = false), "not committed"),
        ("never adopted", without(death, |rules| rules.adopted = false), ""),
        ("the same session after a doubt", without(doubt, |rules| rules.another_session = false), ""),
        ("sent again without a look", without(lost, |rules| rules.looks_first = false), "the newest"),
        ("deleted when acknowledged", without(crash, |rules| rules.held = false), "the newest"),
        ("another server is not noticed", without(crash, |rules| rules.sent_again = false), "the newest"),
        ("all rows of a subject are sent", without(one, |rules| rules.newest = usize::MAX), "the newest"),
        ("too few messages are kept", Outbox { kept: 2, ..one }, "the newest"),
    ] {
        let broken = broken(name, &outbox);
        assert!(broken.contains(expected), "{name}: {broken}");
    }
}
