package gateway

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/agent"
)

// Flags are the raw words of the command line.
type Flags struct {
	Coordinator, TokenFile, CAFile, StateDir, KeyFile, PresharedKeys, Lease string
	LogLevel, LogFormat                                                     string
	Datapath, DatapathWhy                                                   string
	ListenPort, HealthPort                                                  uint16
	Linger                                                                  time.Duration
}

// Options reads the flags and who we are from the environment.
func (f *Flags) Options(version string) (o Options, err error) {
	if o.Log, err = agent.NewLog(f.LogLevel, f.LogFormat); err != nil {
		return o, err
	}
	o.Namespace, o.Identity, o.Lease = os.Getenv("POD_NAMESPACE"), os.Getenv("POD_NAME"), f.Lease
	o.Linger = f.Linger
	o.Agent = agent.Options{TokenFile: f.TokenFile, CAFile: f.CAFile, StateDir: f.StateDir, KeyFile: f.KeyFile, PresharedKeys: f.PresharedKeys, Namespace: o.Namespace,
		Datapath: f.Datapath, DatapathWhy: f.DatapathWhy, ListenPort: f.ListenPort, HealthAddr: net.JoinHostPort("", strconv.Itoa(int(f.HealthPort))),
		Relays: true, OwnProcess: true, Version: version, Log: o.Log}
	if o.Agent.Coordinator, err = url.Parse(f.Coordinator); err != nil {
		return o, fmt.Errorf("--coordinator: %w", err)
	}
	if o.Agent.PodIP, err = netip.ParseAddr(os.Getenv("POD_IP")); err != nil {
		return o, fmt.Errorf("POD_IP: %q is not an IP address", os.Getenv("POD_IP"))
	}
	o.Log.Info("gateway starts", "version", version, "coordinator", f.Coordinator, "pod", o.Identity, "lease", o.Lease)
	return o, nil
}
