use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order.placed", key = orderid)]
struct OrderPlaced {
    order_id: String,
    total: f64,
}

fn main() {}
