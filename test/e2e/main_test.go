package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/tenantwire/tenantwire/test/kit"
)

// parallel is how many tests run at once: they wait most of the time.
const parallel = "6"

// cluster is made by TestMain.
var cluster *kit.Cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	if !set {
		_ = flag.Set("test.parallel", parallel)
	}
	var err error
	if cluster, err = kit.Connect(); err == nil {
		err = cluster.Install(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}
