package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/contender"
)

func TestGuestWordsAreACommandLine(t *testing.T) {
	o, err := parse(guestWords("/programs", "/out"))
	if err != nil {
		t.Fatal(err)
	}
	if o.programs != "/programs" || o.out != "/out" || o.profiles || o.limits || o.guest || o.trial.Rounds != guestRounds || o.trial.Time != guestTime ||
		o.trial.Warm != guestWarm || len(o.trial.Contenders) != len(strings.Split(guestContenders, ",")) ||
		len(o.trial.Scenarios) != len(strings.Split(guestScenarios, ",")) {
		t.Errorf("%+v", o)
	}
}

func TestKeepLeavesOthersOut(t *testing.T) {
	r := &bench.Run{
		Samples: []bench.Sample{{Contender: "sidecar", Scenario: "size", Round: 1, Unit: bench.Megabytes, Value: 15},
			{Contender: "kernel-sym", Scenario: "up1", Round: 1, Unit: bench.Throughput, Value: 99}},
		Skips: []bench.Skip{{What: "tailscaled", Why: "no binary"}, {What: "plain-kernel:up1, round 2", Why: "stalled"}, {What: "kernel-sym", Why: "none"}},
	}
	want := &bench.Run{Samples: r.Samples[1:], Skips: r.Skips[1:]}
	if diff := cmp.Diff(want, keep(r, []string{"plain-kernel", "kernel-sym"})); diff != "" {
		t.Error(diff)
	}
}

func TestPrebuiltWantsAll(t *testing.T) {
	dir := t.TempDir()
	if _, err := prebuilt(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("an empty folder was taken:", err)
	}
	for _, b := range programs(&contender.Programs{}) {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(b.pkg)), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p, err := prebuilt(dir)
	if err != nil || p.Load != filepath.Join(dir, "load") {
		t.Error(p, err)
	}
}
