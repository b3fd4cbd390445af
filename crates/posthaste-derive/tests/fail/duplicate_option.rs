use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order.placed", version = 1)]
#[event(version = 2)]
struct OrderPlaced;

fn main() {}
