package main

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/datera-csi/datera-csi/internal/sim"
)

// options are the flags.
type options struct {
	dataDir, http, https, endpoint   string
	accessIPs, apiVersions           []string
	lio, keepTargets, logRequests    bool
	swVersion, name                  string
	user, password, passwordFile     string
	latency, snapshotDelay, export   time.Duration
	cloneDelay, resizeDelay, removal time.Duration
	capacity                         string
	nodes, allFlashNodes             int
	printBackend                     bool
	backendsDir                      string
}

func rootCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "datera-sim",
		Short: "A simulated Datera array: its REST API and, with --lio, real iSCSI targets",
		Long: `datera-sim is an array for tests and laptops. It serves the REST API of a Datera
array, versions 2 to 2.3, strictly: what the array refuses, it refuses. Without
flags it keeps everything in memory and shows no targets. With --data-dir its
volumes survive a restart; with --lio each storage instance is a real iSCSI
target of this host's Linux kernel (needs root).

At start it prints its endpoints, its CA and a directory of backends, ready for
the plugin's --backends-dir. It stops on SIGTERM or Ctrl-C.

A snapshot or clone shares blocks with its source where the file system of the
data directory can do that (xfs, btrfs). Elsewhere it is copied, and the copy of
a volume that is being written to meanwhile is not of one moment.`,
		Example: `  # an array in memory, and the plugin's controller against it
  datera-sim --backends-dir=/tmp/backends
  datera-csi controller --backends-dir=/tmp/backends --endpoint=unix:///tmp/csi.sock

  # an array with real targets on two addresses of this host, for multipath
  sudo datera-sim --lio --data-dir=/var/lib/datera-sim \
      --access-ip=192.0.2.10 --access-ip=198.51.100.10 --endpoint=https://192.0.2.10:7718

  # a slow one, to see how a client behaves
  datera-sim --latency=200ms --snapshot-delay=5s --export-delay=3s`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.register(cmd)
	return cmd
}

func (o *options) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.dataDir, "data-dir", "", "keep state, backing files and certificates in this `directory`; empty: in memory")
	f.StringVar(&o.http, "http", ":7717", "serve plain HTTP on this `address`; empty: do not")
	f.StringVar(&o.https, "https", ":7718", "serve HTTPS on this `address`; empty: do not")
	f.StringVar(&o.endpoint, "endpoint", "", "`URL` under which clients reach this array, for the backend directory and the certificate (default: this host by HTTPS)")
	f.StringSliceVar(&o.accessIPs, "access-ip", nil, "`address` of a portal of every target; repeatable, two give multipath (default 172.28.0.9 and 172.29.0.9, with --lio 127.0.0.1)")
	f.BoolVar(&o.lio, "lio", false, "show storage instances as iSCSI targets of this host's Linux kernel; needs root and --data-dir")
	f.BoolVar(&o.keepTargets, "keep-targets", false, "leave the targets of --lio behind on a graceful stop, for the next start to take over")
	f.StringVar(&o.user, "user", "admin", "`name` of the administrator")
	f.StringVar(&o.password, "password", "", "the administrator's password (default \"password\")")
	f.StringVar(&o.passwordFile, "password-file", "", "`file` that holds the password")
	f.StringVar(&o.backendsDir, "backends-dir", "", "write the backend `default` below this `directory` (default: below the data directory, else a temporary one)")
	f.BoolVar(&o.printBackend, "print-backend", false, "print the backend as a Kubernetes Secret as well")
	f.StringSliceVar(&o.apiVersions, "api-versions", nil, "API `versions` to serve (default: what the software version serves)")
	f.StringVar(&o.swVersion, "sw-version", "3.3.4.0", "software version; before 3.3 there are no placement policies")
	f.StringVar(&o.name, "name", "datera-sim", "name of the system")
	f.StringVar(&o.capacity, "capacity", "64TiB", "raw capacity of all nodes, e.g. 500GiB")
	f.IntVar(&o.nodes, "nodes", 3, "storage nodes")
	f.IntVar(&o.allFlashNodes, "all-flash-nodes", 0, "how many of them are all-flash")
	f.DurationVar(&o.latency, "latency", 0, "let every request take that much longer")
	f.DurationVar(&o.export, "export-delay", 0, "time from online to available")
	f.DurationVar(&o.snapshotDelay, "snapshot-delay", 0, "time until a snapshot is available")
	f.DurationVar(&o.cloneDelay, "clone-delay", 0, "time for which a clone shows that it is cloning")
	f.DurationVar(&o.resizeDelay, "resize-delay", 0, "time for which a volume shows that it is being resized")
	f.DurationVar(&o.removal, "delete-delay", 0, "time for which a deleted app instance stays visible")
	f.BoolVar(&o.logRequests, "log-requests", false, "print every request with its status and duration")
}

// config turns flags into the array's configuration, with everything checked
// that can be checked without touching anything.
func (o *options) config() (sim.Config, error) {
	cfg := sim.Config{
		APIVersions: o.apiVersions, SWVersion: o.swVersion, Name: o.name, Nodes: o.nodes, AllFlashNodes: o.allFlashNodes,
		DataDir: o.dataDir, Latency: o.latency, ExportDelay: o.export, SnapshotDelay: o.snapshotDelay,
		CloneDelay: o.cloneDelay, ResizeDelay: o.resizeDelay, DeleteDelay: o.removal,
	}
	if o.http == "" && o.https == "" {
		return cfg, errors.New("--http and --https are both empty: nothing would be served")
	}
	if o.lio && o.dataDir == "" {
		return cfg, errors.New("--lio needs --data-dir, for the files behind the volumes")
	}
	var err error
	if cfg.Capacity, err = parseSize(o.capacity); err != nil {
		return cfg, fmt.Errorf("--capacity: %w", err)
	}
	if cfg.AccessIPs, err = o.portals(); err != nil {
		return cfg, err
	}
	password, err := o.secret()
	if err != nil {
		return cfg, err
	}
	cfg.Users = []sim.User{{Name: o.user, Password: password}}
	return cfg, o.checkEndpoint()
}

func (o *options) checkEndpoint() error {
	if o.endpoint == "" {
		return nil
	}
	u, err := url.Parse(o.endpoint)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https"}, u.Scheme) {
		return fmt.Errorf("--endpoint: %q is not a URL such as https://192.0.2.10:7718", o.endpoint)
	}
	return nil
}

func (o *options) portals() ([]netip.Addr, error) {
	texts := o.accessIPs
	if len(texts) == 0 && o.lio {
		texts = []string{"127.0.0.1"}
	}
	var ips []netip.Addr
	for _, text := range texts {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("--access-ip: %q is not an IP address", text)
		}
		ips = append(ips, ip)
	}
	return ips, nil
}

func (o *options) secret() (string, error) {
	if o.password != "" && o.passwordFile != "" {
		return "", errors.New("--password and --password-file exclude each other")
	}
	if o.passwordFile == "" {
		if o.password == "" {
			return "password", nil
		}
		return o.password, nil
	}
	raw, err := os.ReadFile(o.passwordFile)
	if err != nil {
		return "", fmt.Errorf("--password-file: %w", err)
	}
	password := strings.TrimRight(string(raw), "\r\n")
	if password == "" {
		return "", fmt.Errorf("--password-file: %s is empty", o.passwordFile)
	}
	return password, nil
}
