use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order\nplaced")]
struct OrderPlaced;

fn main() {}
