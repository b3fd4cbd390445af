//! x
mod board;
mod lease;
mod share;
mod turn;

#[cfg(test)]
mod tests;
