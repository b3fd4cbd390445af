//! From what a handler made of a message to what its delivery is told. Pure.

use std::time::Duration;

use posthaste_core::{Cause, Nack, Reason};

use crate::{Class, Outcome, RetryPolicy};

/// What the delivery is told.
#[derive(Debug)]
pub(crate) enum Step {
    Ack,
    Discard,
    Nack(Nack),
}

/// What is known of a delivery that was not handled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) attempt: u32,
    /// How old the message is, where that is known.
    pub(crate) age: Option<Duration>,
    pub(crate) handler: &'a str,
}

/// What becomes of a delivery. How often it may be delivered is counted by the subscription.
pub(crate) fn step(policy: &RetryPolicy, outcome: &Outcome, facts: Facts<'_>) -> Step {
    match outcome {
        Outcome::Ack => Step::Ack,
        Outcome::Discard => Step::Discard,
        Outcome::DeadLetter(cause) => dead_letter(cause.clone(), facts),
        Outcome::Retry => again(policy, None, Cause::new("the handler asked to try again"), facts),
        Outcome::RetryAfter(delay) => {
            again(policy, Some(*delay), Cause::new("the handler asked to try again later"), facts)
        }
        Outcome::Failed(error) => match policy.class(error) {
            Class::Retry => again(policy, None, error.cause(), facts),
            Class::RetryAfter(delay) => again(policy, Some(delay), error.cause(), facts),
            Class::Permanent => dead_letter(error.cause(), facts),
            Class::Discard => Step::Discard,
        },
    }
}

fn again(policy: &RetryPolicy, delay: Option<Duration>, cause: Cause, facts: Facts<'_>) -> Step {
    let delay = delay.unwrap_or_else(|| policy.delay(facts.attempt));
    let too_old = |max: Duration| facts.age.is_some_and(|age| age.saturating_add(delay) > max);
    if policy.max_age.is_some_and(too_old) {
        return dead_letter(cause.with_reason(Reason::AttemptsExhausted), facts);
    }
    let nack = if delay.is_zero() { Nack::requeue() } else { Nack::after(delay) };
    Step::Nack(nack.caused_by(named(cause, facts)))
}

fn dead_letter(cause: Cause, facts: Facts<'_>) -> Step {
    Step::Nack(Nack::dead_letter(named(cause, facts)))
}

/// With the handler's name, unless the handler has given another one.
fn named(cause: Cause, facts: Facts<'_>) -> Cause {
    if cause.handler_name().is_some() { cause } else { cause.handler(facts.handler) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HandlerError;

    const FACTS: Facts<'_> = Facts { attempt: 1, age: None, handler: "charge" };

    fn told(policy: &RetryPolicy, outcome: &Outcome, facts: Facts<'_>) -> String {
        format!("{:?}", step(policy, outcome, facts))
    }

    #[test]
    fn what_a_handler_says_is_what_the_delivery_is_told() {
        let policy = RetryPolicy::fixed(Duration::from_secs(7));
        let error = || HandlerError::new("down");
        for (outcome, parts) in [
            (Outcome::Ack, &["Ack"][..]),
            (Outcome::Discard, &["Discard"]),
            (Outcome::Retry, &["After(7s"]),
            (Outcome::RetryAfter(Duration::from_secs(9)), &["After(9s"]),
            (Outcome::RetryAfter(Duration::ZERO), &["Requeue("]),
            (Outcome::Failed(error()), &["After(7s", "\"down\"", "\"charge\""]),
            (Outcome::Failed(error().with_class(Class::Discard)), &["Discard"]),
            (Outcome::Failed(HandlerError::permanent("no")), &["DeadLetter(", "\"charge\""]),
            (Outcome::DeadLetter(Cause::new("no").handler("mine")), &["DeadLetter(", "\"mine\""]),
        ] {
            let told = told(&policy, &outcome, FACTS);
            assert!(parts.iter().all(|part| told.contains(part)), "{outcome:?}: {told}");
        }
    }

    #[test]
    fn what_would_be_too_old_at_its_next_attempt_is_given_up_now() {
        let policy = RetryPolicy::fixed(Duration::from_secs(7)).max_age(Duration::from_secs(60));
        let aged = |seconds| Facts { age: Some(Duration::from_secs(seconds)), ..FACTS };
        assert!(told(&policy, &Outcome::Retry, aged(53)).contains("After(7s"));
        assert!(told(&policy, &Outcome::Retry, aged(54)).contains("AttemptsExhausted"));
        assert!(told(&policy, &Outcome::Retry, FACTS).contains("After(7s"), "of unknown age");
    }
}
