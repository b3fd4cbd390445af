use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order.placed", version = 0)]
struct OrderPlaced;

fn main() {}
