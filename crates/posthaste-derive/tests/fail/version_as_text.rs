use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order.placed", version = "1")]
struct OrderPlaced;

fn main() {}
