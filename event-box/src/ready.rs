use std::collections::VecDeque;

/// The partitions of a group that wait for a worker of this process, each at most once.
#[derive(Debug)]
pub(crate) struct Ready {
    queue: VecDeque<i16>,
    states: [State; 64],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Queued,
    Running,
    /// Something was announced while its batch ran, which may have read before.
    RunningAgain,
}

impl Default for Ready {
    fn default() -> Self {
        Self { queue: VecDeque::new(), states: [State::Idle; 64] }
    }
}

impl Ready {
    /// A look found work there, or a batch left some: last in line. What runs already is looked at again when it ends.
    pub(crate) fn push(&mut self, partition: i16) {
        if self.states[partition as usize] == State::Idle {
            self.states[partition as usize] = State::Queued;
            self.queue.push_back(partition);
        }
    }

    /// An event was announced there.
    pub(crate) fn announce(&mut self, partition: i16) {
        let state = &mut self.states[partition as usize];
        match *state {
            State::Idle => {
                *state = State::Queued;
                self.queue.push_back(partition);
            }
            State::Running => *state = State::RunningAgain,
            State::Queued | State::RunningAgain => {}
        }
    }

    /// The next to be claimed.
    pub(crate) fn pop(&mut self) -> Option<i16> {
        let partition = self.queue.pop_front()?;
        self.states[partition as usize] = State::Running;
        Some(partition)
    }

    /// Those that wait, the next first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = i16> {
        self.queue.iter().copied()
    }

    /// The next to be claimed that is not this one.
    pub(crate) fn pop_except(&mut self, partition: i16) -> Option<i16> {
        let next = self.waiting().find(|next| *next != partition)?;
        self.take(next).then_some(next)
    }

    /// Claims this one next, whether it waits or not; false where it runs already.
    pub(crate) fn take(&mut self, partition: i16) -> bool {
        let state = &mut self.states[partition as usize];
        if !matches!(*state, State::Idle | State::Queued) {
            return false;
        }
        *state = State::Running;
        self.queue.retain(|waiting| *waiting != partition);
        true
    }

    /// They were popped for nothing, and have the first places again: last in line, they might lose their turn as often as they have it.
    pub(crate) fn give_back(&mut self, partitions: Vec<i16>) {
        for partition in partitions.into_iter().rev() {
            self.states[partition as usize] = State::Queued;
            self.queue.push_front(partition);
        }
    }

    /// Its batch has ended.
    pub(crate) fn finished(&mut self, partition: i16, more: bool) {
        let again = std::mem::replace(&mut self.states[partition as usize], State::Idle) == State::RunningAgain;
        if more || again {
            self.push(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_waits_once_in_the_order_of_asking() {
        let mut ready = Ready::default();
        ready.push(1);
        ready.push(2);
        ready.push(1);
        ready.announce(3);
        ready.announce(2);
        assert_eq!([ready.pop(), ready.pop(), ready.pop(), ready.pop()], [Some(1), Some(2), Some(3), None]);
    }

    #[test]
    fn what_is_given_back_keeps_its_place() {
        let mut ready = Ready::default();
        (1..=4).for_each(|partition| ready.push(partition));
        assert_eq!([ready.pop(), ready.pop(), ready.pop()], [Some(1), Some(2), Some(3)]);
        ready.announce(3);
        ready.give_back(vec![2, 3]);
        ready.finished(1, true);
        assert_eq!(ready.waiting().collect::<Vec<_>>(), [2, 3, 4, 1]);
    }

    #[test]
    fn one_is_taken_out_of_turn() {
        let mut ready = Ready::default();
        ready.push(1);
        ready.push(2);
        assert_eq!(ready.pop_except(1), Some(2));
        assert!(ready.take(1) && ready.take(3) && !ready.take(3));
        assert_eq!(ready.pop(), None);
        ready.finished(3, true);
        assert_eq!(ready.pop_except(3), None);
    }

    #[test]
    fn what_was_announced_during_its_batch_runs_again() {
        let mut ready = Ready::default();
        ready.push(1);
        ready.pop();
        ready.push(1);
        assert_eq!(ready.pop(), None, "it is running");
        ready.announce(1);
        ready.finished(1, false);
        assert_eq!(ready.pop(), Some(1));
        ready.finished(1, true);
        assert_eq!(ready.pop(), Some(1));
        ready.finished(1, false);
        assert_eq!(ready.pop(), None);
    }
}
