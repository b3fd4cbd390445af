use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order.placed", key = "order_id")]
struct OrderPlaced {
    order_id: String,
}

fn main() {}
