package agent

import "context"

// awaitActive stands by until it is this process's turn. When the turn is about to come, it prepares for that.
func (m *member) awaitActive(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case soon := <-m.Soon:
			m.plane.expect(ctx, soon)
		case <-m.Active:
			return nil
		}
	}
}

// expect makes known that this process is about to take over, or is not after all. Until it does, nothing is carried: ports for other
// pods are open, so that who connects waits instead of being refused, and ready says so, so that Services lead here in time.
func (p *plane) expect(ctx context.Context, soon bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.standby || p.told == nil {
		return
	}
	p.expected = soon
	if !soon {
		p.log.Info("stands by again")
		p.ahead.Close()
		return
	}
	p.log.Info("about to take over", "ports", len(p.told.egress))
	if err := p.ahead.Open(ctx, p.told.egress); err != nil {
		p.log.Warn("some ports are not open yet", "error", err.Error())
	}
}

const aboutToTakeOver = "about to take over"

// ready says whether others may be led here: the data path is up, or is about to be.
func (p *plane) ready() (bool, string) {
	up, why := p.up()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !up && p.standby && p.expected && !p.draining.Load() {
		return true, aboutToTakeOver
	}
	return up, why
}
