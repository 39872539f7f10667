package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/tenantwire/tenantwire/test/kit"
)

// parallel is how many tests run at once. With more of them a machine of two cores has so much to do at times that requests run into
// their deadlines, and all of them together end no sooner.
const parallel = "4"

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
