use posthaste_derive::Event;

struct Customer {
    id: u64,
}

#[derive(Event)]
#[event(type = "order.placed", key = customer.name, crate = posthaste_core)]
struct OrderPlaced {
    customer: Customer,
}

fn main() {}
