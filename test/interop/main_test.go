package interop

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// programs are built once for all tests.
var programs struct {
	sidecar, wireguard string
	missing            string // why the tests cannot run here; empty: they can
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if programs.missing = missing(); programs.missing != "" {
		fmt.Println("interop: every test is skipped:", programs.missing)
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "twi-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		err = build(dir)
	}
	if err != nil {
		fmt.Println("interop:", err)
		return 1
	}
	return m.Run()
}

// missing says what the tests need and do not find.
func missing() string {
	if os.Geteuid() != 0 {
		return "network namespaces need root"
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return "the far end needs a TUN device: " + err.Error()
	}
	if _, err := exec.LookPath("wg"); err != nil {
		if out, err := exec.Command("./setup.sh").CombinedOutput(); err != nil {
			return fmt.Sprintf("the wg tool is not installed, and setup.sh says: %s (%v)", strings.TrimSpace(string(out)), err)
		}
	}
	return ""
}

func build(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil { // the sidecar runs as another user
		return err
	}
	programs.sidecar, programs.wireguard = filepath.Join(dir, "sidecar"), filepath.Join(dir, "wireguard-go")
	for _, c := range []struct{ in, out, pkg string }{
		{"../..", programs.sidecar, "./cmd/sidecar"},
		{".", programs.wireguard, "golang.zx2c4.com/wireguard"},
	} {
		cmd := exec.Command("go", "build", "-o", c.out, c.pkg)
		cmd.Dir, cmd.Env = c.in, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", c.pkg, err, out)
		}
	}
	return nil
}

// needLab skips where the environment lacks something, saying what.
func needLab(t *testing.T) {
	t.Helper()
	if programs.missing != "" {
		t.Skip("interop: " + programs.missing)
	}
}
