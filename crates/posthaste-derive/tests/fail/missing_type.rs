use posthaste_derive::Event;

#[derive(Event)]
#[event(version = 2, key = order_id)]
struct OrderPlaced {
    order_id: String,
}

fn main() {}
