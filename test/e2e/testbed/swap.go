package testbed

import (
	"context"
	"fmt"

	"github.com/datera-csi/datera-csi/internal/publishctx"
)

// SwapLUN puts another volume behind the LUN of a published one, as an array does
// that uses a number again. The array's own software does not know of it. Restore
// may be called twice; it fails when anything was written to the intruder.
func (a *Array) SwapLUN(ctx context.Context, published map[string]string) (restore func(context.Context) error, _ error) {
	c, err := publishctx.Decode(published)
	if err != nil {
		return nil, err
	}
	where := fmt.Sprintf(`target=/sys/kernel/config/target
lun=$target/iscsi/%s/tpgt_1/lun/lun_%d
intruder=$target/core/fileio_99/intruder
relink() {
	for map in ${lun%%/lun/*}/acls/*/lun_*; do rm $(find $map -mindepth 1 -maxdepth 1 -type l); done
	rm $(find $lun -mindepth 1 -maxdepth 1 -type l)
	ln -s $1 $lun/swapped
	for map in ${lun%%/lun/*}/acls/*/lun_*; do ln -s $lun $map/map; done
}
`, c.Target.IQN, c.Target.LUN)
	restore = func(ctx context.Context) error {
		_, restoreErr := a.Shell(ctx, where+`[ -e /run/swapped ] || exit 0
relink $(cat /run/swapped)
rmdir $intruder ${intruder%/*}
rm /run/swapped
[ $(stat -c %b /data/intruder) = 0 ] || { echo "something was written to the intruder" >&2; exit 1; }
rm /data/intruder`)
		return restoreErr
	}
	_, err = a.Shell(ctx, where+fmt.Sprintf(`mkdir -p $intruder; truncate -s %d /data/intruder
echo -n fd_dev_name=/data/intruder,fd_dev_size=%[1]d > $intruder/control
echo -n DATERA > $intruder/wwn/vendor_id; echo -n IBLOCK > $intruder/wwn/product_id; echo -n 4.0 > $intruder/wwn/revision
echo -n 11111111-2222-3333-4444-555555555555 > $intruder/wwn/vpd_unit_serial; echo 1 > $intruder/enable
readlink -f $(find $lun -mindepth 1 -maxdepth 1 -type l) > /run/swapped
relink $intruder`, c.Target.Bytes))
	if err != nil {
		return nil, fmt.Errorf("swap LUN %d of %s: %w", c.Target.LUN, c.Target.IQN, err)
	}
	return restore, nil
}
