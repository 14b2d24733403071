//! Breadth-first search of all states of a model.

use std::{
    collections::{HashSet, VecDeque},
    fmt::Debug,
    hash::{BuildHasher, Hash, RandomState},
};

/// A system whose states can be enumerated.
pub trait Model {
    /// A state of the whole system.
    type State: Clone + Hash;
    /// A step from one state to another.
    type Action: Copy + Debug;

    /// Returns the first state.
    fn initial(&self) -> Self::State;

    /// Returns the steps that are possible in a state.
    fn actions(&self, state: &Self::State) -> Vec<Self::Action>;

    /// Takes a step.
    fn step(&self, state: &Self::State, action: Self::Action) -> Self::State;

    /// Checks the invariants of a state.
    ///
    /// # Errors
    /// If one of them does not hold.
    fn check(&self, state: &Self::State) -> Result<(), String>;
}

/// The result of a search.
#[derive(Debug)]
pub struct Found {
    /// The number of states.
    pub states: usize,
    /// Whether these are all.
    pub all: bool,
    /// The broken invariant, and the shortest sequence of steps to it.
    pub violation: Option<(String, Vec<String>)>,
}

/// Visits up to `most` states, and stops at the first that breaks an invariant. States count as equal if their hashes of
/// 64 bits are.
pub fn search<M: Model>(model: &M, most: usize) -> Found {
    let hasher = RandomState::new();
    // For each state, the one before it and the step from there.
    let mut steps: Vec<(usize, Option<M::Action>)> = vec![(0, None)];
    let mut visited = HashSet::from([hasher.hash_one(model.initial())]);
    let mut waiting = VecDeque::from([(model.initial(), 0)]);
    while let Some((state, number)) = waiting.pop_front() {
        if let Err(broken) = model.check(&state) {
            return Found { states: visited.len(), all: false, violation: Some((broken, trace(&steps, number))) };
        }
        for action in model.actions(&state) {
            let next = model.step(&state, action);
            if visited.len() < most && visited.insert(hasher.hash_one(&next)) {
                steps.push((number, Some(action)));
                waiting.push_back((next, steps.len() - 1));
            }
        }
    }
    Found { states: visited.len(), all: visited.len() < most, violation: None }
}

fn trace<A: Debug>(steps: &[(usize, Option<A>)], mut number: usize) -> Vec<String> {
    let mut actions = Vec::new();
    while let (before, Some(action)) = &steps[number] {
        actions.push(format!("{action:?}"));
        number = *before;
    }
    actions.reverse();
    actions
}
