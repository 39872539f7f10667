// Command sidecar is TenantWire's data plane: injected into pods it follows the coordinator, and with --config it runs from a file
// on any machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/tenantwire/tenantwire/sidecar/agent"
)

// version is set when a release is built.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var f flags
	err := f.parse(os.Args[1:])
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return 0
	case err == nil && f.version:
		fmt.Println("sidecar version", version)
		return 0
	case err == nil:
		err = f.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sidecar:", err)
		return 1
	}
	return 0
}

// flags are the raw words of the command line.
type flags struct {
	config, coordinator, tokenFile, caFile, stateDir string
	datapath, datapathWhy, logLevel, logFormat       string
	listenPort, healthPort                           uint16
	names, ownPorts, proxies                         []string
	drain                                            time.Duration
	check, version                                   bool
}

const usage = `Brings up one WireGuard tunnel, in user space or with an interface of its own, and relays TCP and UDP between it and loopback.

In a pod the webhook sets the flags. On any other machine give --config FILE: a YAML file with interface,
peers, forwards, expose and proxies; SIGHUP reads it again.

Usage:
  sidecar (--coordinator URL | --config FILE) [flags]

Flags:
`

// parse reads the command line. It does without a library for commands, which would be a quarter of a megabyte of every sidecar.
func (f *flags) parse(words []string) error {
	p := pflag.NewFlagSet("sidecar", pflag.ContinueOnError)
	p.Usage = func() { fmt.Print(usage + p.FlagUsages()) }
	p.StringVar(&f.config, "config", "", "run from this file, without a cluster")
	p.BoolVar(&f.check, "check", false, "with --config: say whether the file is good, then exit")
	p.StringVar(&f.coordinator, "coordinator", "", "https URL of the coordinator")
	p.StringVar(&f.tokenFile, "token-file", "/var/run/tenantwire/token", "service-account token with audience tenantwire.dev")
	p.StringVar(&f.caFile, "ca-file", "/var/run/tenantwire/ca.crt", "certificates that sign the coordinator's")
	p.StringVar(&f.stateDir, "state-dir", "/var/lib/tenantwire", "memory-backed folder for the key and the last configuration")
	p.StringVar(&f.datapath, "datapath", "Auto", "Auto, Kernel, TUN or Netstack")
	p.StringVar(&f.datapathWhy, "datapath-why", "", "why it is that datapath, where the webhook chose it and not the tunnel")
	p.Uint16Var(&f.listenPort, "listen-port", 51820, "outer UDP port")
	p.Uint16Var(&f.healthPort, "health-port", 51821, "TCP port of /healthz, /readyz and /metrics")
	p.StringArrayVar(&f.names, "name", nil, "NAME=ADDRESS: carry a name, listening on a loopback address (repeatable)")
	p.StringArrayVar(&f.ownPorts, "own-port", nil, "PORT/PROTOCOL: the application's, never listened on for any name (repeatable)")
	p.StringArrayVar(&f.proxies, "proxy", nil, "SOCKS5=PORT or HTTPConnect=PORT: a proxy on 127.0.0.1 (repeatable)")
	p.DurationVar(&f.drain, "drain", 10*time.Second, "how long open connections may finish after SIGTERM")
	p.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	p.StringVar(&f.logFormat, "log-format", "json", "json or text")
	p.BoolVarP(&f.version, "version", "v", false, "print the version")
	switch err := p.Parse(words); {
	case err != nil:
		return err
	case f.version:
		return nil
	case p.NArg() > 0:
		return fmt.Errorf("unknown argument %q: want flags alone, see --help", p.Arg(0))
	case (f.config == "") == (f.coordinator == ""):
		return errors.New("want one of --coordinator and --config")
	}
	return nil
}

func (f *flags) run(ctx context.Context) error {
	log, err := agent.NewLog(f.logLevel, f.logFormat)
	if err != nil {
		return err
	}
	if f.config != "" {
		if f.check {
			return agent.CheckStatic(f.config)
		}
		return agent.RunStatic(ctx, agent.StaticOptions{Path: f.config, Drain: f.drain, OwnProcess: true, Version: version, Log: log})
	}
	o, err := f.member(log)
	if err != nil {
		return err
	}
	log.Info("sidecar starts", "version", version, "coordinator", f.coordinator, "podIP", o.PodIP.String(), "names", len(o.Names))
	return agent.RunMember(ctx, o)
}

func (f *flags) member(log *slog.Logger) (agent.Options, error) {
	o := agent.Options{TokenFile: f.tokenFile, CAFile: f.caFile, StateDir: f.stateDir, Datapath: f.datapath, DatapathWhy: f.datapathWhy, ListenPort: f.listenPort,
		HealthAddr: net.JoinHostPort("", strconv.Itoa(int(f.healthPort))), Drain: f.drain, OwnProcess: true, Version: version, Log: log,
		Namespace: os.Getenv("POD_NAMESPACE"), Names: map[string]netip.Addr{}}
	var err error
	if o.Coordinator, err = url.Parse(f.coordinator); err != nil {
		return o, fmt.Errorf("--coordinator: %w", err)
	}
	if o.PodIP, err = netip.ParseAddr(os.Getenv("POD_IP")); err != nil {
		return o, fmt.Errorf("POD_IP: %q is not an IP address", os.Getenv("POD_IP"))
	}
	for _, n := range f.names {
		name, text, _ := strings.Cut(n, "=")
		a, err := netip.ParseAddr(text)
		if err != nil || name == "" {
			return o, fmt.Errorf("--name: %q is not NAME=ADDRESS", n)
		}
		o.Names[name] = a
	}
	for _, text := range f.ownPorts {
		p, err := agent.ParsePort(text)
		if err != nil {
			return o, fmt.Errorf("--own-port: %w", err)
		}
		o.OwnPorts = append(o.OwnPorts, p)
	}
	for _, p := range f.proxies {
		if err := setProxy(&o, p); err != nil {
			return o, err
		}
	}
	return o, nil
}

func setProxy(o *agent.Options, text string) error {
	kind, port, _ := strings.Cut(text, "=")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("--proxy: %q is not SOCKS5=PORT or HTTPConnect=PORT", text)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(n))
	switch kind {
	case "SOCKS5":
		o.SOCKS5 = at
	case "HTTPConnect":
		o.HTTPConnect = at
	default:
		return fmt.Errorf("--proxy: %q is not SOCKS5=PORT or HTTPConnect=PORT", text)
	}
	return nil
}
