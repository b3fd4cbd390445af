use posthaste_derive::Event;

#[derive(Event)]
struct OrderPlaced {
    order_id: String,
}

fn main() {}
