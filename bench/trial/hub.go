package trial

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/contender"
	"github.com/tenantwire/tenantwire/bench/lab"
	"github.com/tenantwire/tenantwire/bench/load"
)

// Gateway lists the scenarios of a hub between the ends.
func Gateway() []Scenario {
	return append(append(Quick(), requests("rtt-idle", 0), datagrams("udp64", 64), datagrams("udp1400", 1400)), HubOnly()...)
}

// HubOnly lists those of them that only a hub can have.
func HubOnly() []Scenario { return []Scenario{active("active10", 0), active("active10-of1000", 990)} }

// active is a stream up from each of ten peers of a hub, at which a number of others are idle.
func active(name string, idle int) Scenario {
	return Scenario{Name: name, Peers: contender.Population{Active: 10, Idle: idle}, run: func(ctx context.Context, s *stage) error { return s.active(ctx) }}
}

func (s *stage) active(ctx context.Context) error {
	type client struct {
		process *lab.Process
		out     bytes.Buffer
	}
	clients := make([]client, len(s.pair.Active))
	for i, at := range s.pair.Active {
		var err error
		if clients[i].process, err = s.clientAt(at, &clients[i].out, nil, s.o.Time, "streams", "-way", "up", "-n", "1"); err != nil {
			return err
		}
	}
	var rate, carried float64
	var shares []float64
	var hub load.Cost
	for i := range clients {
		c := &clients[i]
		if err := c.process.Wait(ctx, s.o.Warm+s.o.Time+time.Minute); err != nil {
			return err
		}
		var got load.Streams
		if err := json.Unmarshal(c.out.Bytes(), &got); err != nil {
			return fmt.Errorf("read the load's result: %w", err)
		}
		if got.Broken > 0 {
			return fmt.Errorf("the stream of peer %d broke: %s", i, got.FirstFail)
		}
		rate, carried, shares = rate+got.Mbits(), carried+got.Bytes(), append(shares, got.Mbits())
		if len(got.Costs) == hubCost+1 {
			hub = got.Costs[hubCost] // the windows of the clients are the same but for a few milliseconds
		}
	}
	s.add(bench.Throughput, rate)
	s.add(bench.Fairness, bench.Jain(shares))
	if hub.Peak > 0 && carried > 0 {
		s.add(bench.PeakHub, float64(hub.Peak)/mebi)
		s.add(bench.CPUHub, hub.CPU.Seconds()/(carried/1e9))
	}
	return nil
}
