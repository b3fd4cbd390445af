use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order.placed", key = total, crate = posthaste_core)]
struct OrderPlaced {
    total: f64,
}

fn main() {}
