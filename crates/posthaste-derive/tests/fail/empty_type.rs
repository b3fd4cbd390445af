use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "")]
struct OrderPlaced;

fn main() {}
