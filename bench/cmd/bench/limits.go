package main

import (
	"context"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/contender"
	"github.com/tenantwire/tenantwire/bench/lab"
	"github.com/tenantwire/tenantwire/bench/trial"
)

// limits are how sidecars are run: seldom with a machine of their own.
var limits = []lab.Placement{{CPU: 1}, {Quota: 0.5}, {SmallBuffers: true}}

// What is measured within limits is ours, and what verdicts need beside it: the stock netstack for what a gigabyte costs, and for that alone,
// since each scenario of a contender is half a minute within all limits.
var (
	limitedContenders = []string{"wggo-tun", "netstack-sym", "netstack", "tun-sym", "stock-sym", "stock"}
	limitedPartly     = []string{"stock-sym", "stock"}
)

// measureLimited measures within each limit.
func (o *options) measureLimited(ctx context.Context, r *bench.Report) error {
	some, err := contender.Find(limitedContenders)
	if err != nil {
		return err
	}
	for _, place := range limits {
		setup, t := o.setup, o.trial
		setup.Place = place
		t.Setup, t.Contenders, t.Scenarios = &setup, some, trial.Limited(limitedPartly...)
		run := &bench.Run{Limit: place.String()}
		r.Runs = append(r.Runs, run)
		if err := trial.Run(ctx, &t, run); err != nil {
			return err
		}
	}
	return nil
}

// measureGateway measures what a gateway costs that stands between an outside peer and a member.
func (o *options) measureGateway(ctx context.Context, r *bench.Report) error {
	t := o.trial
	t.Contenders, t.Scenarios = contender.Gateways(), trial.Gateway()
	run := &bench.Run{Limit: "a gateway between the ends"}
	r.Runs = append(r.Runs, run)
	return trial.Run(ctx, &t, run)
}

// measureLong measures what shows only after a long time, on the yardstick and on ours.
func (o *options) measureLong(ctx context.Context, r *bench.Report) (err error) {
	t := o.trial
	t.Cycles, t.Rounds = 1_000_000, 1
	if t.Contenders, err = contender.Find([]string{bench.Yardstick, "netstack-sym"}); err != nil {
		return err
	}
	if t.Scenarios, err = find([]string{"churn"}); err != nil {
		return err
	}
	run := &bench.Run{Limit: "a million connect/close cycles", Long: true}
	r.Runs = append(r.Runs, run)
	return trial.Run(ctx, &t, run)
}
