#!/usr/bin/env bash
# A real Slurm cluster on one machine, for tests: munge, slurmctld and four slurmd (two of them with 8 pretended H100).
#
#   box.sh up DIR        write the configuration, start the daemons, wait until all nodes are idle (under half a second)
#   box.sh down DIR      stop every process it started and delete DIR
#   box.sh stop|kill|start DIR DAEMON      TERM, KILL or start one of munged, mariadbd, slurmdbd, slurmctld, slurmd.NODE
#   box.sh crash DIR NODE                  KILL every process of a node, as a power loss would
#
# Knobs of `up` (variables):
#   BOX_ACCT=dbd        accounting: a private mariadb and slurmdbd (mariadb-server, slurmdbd, slurm-wlm-mysql-plugin; 5 s)
#   BOX_MEMORY=kill     jobs over their --mem are ended by Slurm, which looks each second;
#   BOX_MEMORY=cgroup   ... by the kernel (cgroup v1 must be mounted)
#   BOX_SPEED=N         slurmctld alone sees a clock N times faster (libfaketime): time limits and the 120 s before a
#                       requeued job starts take 1/N. Times in squeue and sacct are then in the future.
#   BOX_WARN=1          a preempted job gets its own --signal (preempt_send_user_signal) instead of TERM
#   BOX_DISK=OPTIONS    a small file system at DIR/disk, OPTIONS as for a tmpfs: size=16m,nr_inodes=4k
#
# Needs root and Debian's munge, slurmctld, slurmd, slurm-client. All files live in DIR (short, on a memory file system:
# unix sockets allow 100 characters); clients use SLURM_CONF=DIR/etc/slurm.conf. Each node has its own UTS and mount
# namespace, so it has its own host name, knows the others' names, and its processes can be told from all others.
# BOX_PORT is the first of a block of 100 ports; BOX_EXTRA is appended to slurm.conf.
set -u
PATH=$PATH:/usr/sbin:/sbin
CMD=${1:-help} DIR=${2:-}
NODES="h100-01 h100-02 cpu-01 cpu-02"

die() { echo "box.sh: $*" >&2; exit 1; }
born() { awk '{print $22}' "/proc/$1/stat" 2>/dev/null; }
living() { [ -d "/proc/$1" ] && [ "$(awk '{print $3}' "/proc/$1/stat" 2>/dev/null)" != Z ]; }
# A pid file holds pid and start time: a number that was given again is never taken for ours.
pid() { local p s; read -r p s 2>/dev/null <"$DIR/run/$1.pid" || return 1; living "$p" && [ "$(born "$p")" = "$s" ] && echo "$p"; }
spawn() { local name=$1; shift; setsid "$@" </dev/null >>"$DIR/log/$name.out" 2>&1 & echo "$! $(born $!)" >"$DIR/run/$name.pid"; }
until_true() { # SECONDS COMMAND...: each try has its own limit, because Slurm's clients wait for ever
  local end=$(($(date +%s) + $1)); shift
  until timeout 5 "$@" >/dev/null 2>&1; do [ "$(date +%s)" -lt $end ] || return 1; sleep 0.05; done
}
halt() { # DAEMON SIGNAL SECONDS, then KILL
  local p left=$(($3 * 20)); p=$(pid "$1") || return 0
  kill "-$2" "$p" 2>/dev/null
  while pid "$1" >/dev/null; do left=$((left - 1)); [ $left -gt 0 ] || kill -KILL "$p" 2>/dev/null; sleep 0.05; done
}
node_pids() { # every process in the namespace of a node
  local want p; want=$(stat -Lc %i "$DIR/run/uts.$1" 2>/dev/null) || return 0
  for p in /proc/[0-9]*; do [ "$(stat -Lc %i "$p/ns/uts" 2>/dev/null)" = "$want" ] && echo "${p#/proc/}"; done
}

configure() {
  local host port=${BOX_PORT:-17800} etc=$DIR/etc n i=0 memory accounts speed=${BOX_SPEED:-1}
  host=$(hostname -s)
  mkdir -p "$DIR"/{etc,run,log,spool,state,dev}
  printf '%s=%q\n' BOX_PORT "$port" BOX_SPEED "$speed" BOX_MEMORY "${BOX_MEMORY:-}" \
    BOX_BORN "$(date +%s)" >"$etc/box.env"
  memory=$'ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/'
  case ${BOX_MEMORY:-} in
    cgroup) memory=$'ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup\nJobAcctGatherType=jobacct_gather/cgroup' ;;
    kill) memory+=$'linux\nJobAcctGatherFrequency=task=1\nJobAcctGatherParams=OverMemoryKill' ;;
    *) memory+=none ;;
  esac
  accounts="AccountingStorageType=accounting_storage/none"
  [ "${BOX_ACCT:-}" != dbd ] || accounts="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 19))
AccountingStoragePass=$DIR/run/munge.sock
AccountingStorageTRES=gres/gpu"
  if [ -n "${BOX_DISK:-}" ]; then mkdir "$DIR/disk"; mount -t tmpfs -o "$BOX_DISK" tmpfs "$DIR/disk" || die "mount is not allowed here"; fi
  echo "127.0.0.1 localhost $host" >"$etc/hosts"
  for n in $NODES; do i=$((i + 1)); echo "127.0.1.$i $n" >>"$etc/hosts"; mkdir -p "$DIR/spool/$n"; done
  # slurmd sets CUDA_VISIBLE_DEVICES only for device files: twins of /dev/null
  for i in 0 1 2 3 4 5 6 7; do mknod -m 666 "$DIR/dev/nvidia$i" c 1 3 || die "mknod is not allowed here"; done
  (umask 377; head -c 1024 /dev/urandom >"$etc/munge.key")
  cat >"$etc/gres.conf" <<EOF
AutoDetect=off
NodeName=h100-[01-02] Name=gpu Type=h100 File=$DIR/dev/nvidia[0-7]
EOF
  cat >"$etc/slurm.conf" <<EOF
ClusterName=box
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((port + 17))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/run/munge.sock
CredType=cred/munge
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.own.pid
SlurmdPidFile=$DIR/run/slurmd.%n.own.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.%n.log
MpiDefault=none
SwitchType=switch/none
$memory
PropagateResourceLimits=NONE
# the nodes claim more cores and memory than the machine has
SlurmdParameters=config_overrides
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
${BOX_WARN:+SlurmctldParameters=preempt_send_user_signal}
JobRequeue=1
# quick decisions, and short waits for what is dead
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=50000,batch_sched_delay=0,default_queue_depth=1000,bf_interval=2,bf_resolution=1,bf_continue
SlurmctldTimeout=$((10 * speed))
SlurmdTimeout=$((10 * speed))
MessageTimeout=10
TCPTimeout=2
BatchStartTimeout=$((10 * speed))
InactiveLimit=0
KillWait=3
MinJobAge=$((300 * speed))
WaitTime=0
CompleteWait=0
ReturnToService=2
MaxArraySize=1001
MaxJobCount=20000
$accounts
JobCompType=jobcomp/none
NodeName=DEFAULT State=UNKNOWN
NodeName=h100-[01-02] NodeAddr=127.0.1.[1-2] Port=[$((port + 51))-$((port + 52))] Sockets=2 CoresPerSocket=48 ThreadsPerCore=1 RealMemory=2000000 Gres=gpu:h100:8 Feature=h100 Weight=100
NodeName=cpu-[01-02] NodeAddr=127.0.1.[3-4] Port=[$((port + 53))-$((port + 54))] Sockets=2 CoresPerSocket=64 ThreadsPerCore=1 RealMemory=500000 Feature=cpu
PartitionName=DEFAULT State=UP DefaultTime=10 MaxTime=2-00:00:00
PartitionName=gpu Nodes=h100-[01-02] PriorityTier=10 PreemptMode=OFF
PartitionName=debug Nodes=cpu-[01-02],h100-[01-02] Default=YES PriorityTier=5 MaxTime=60 DefaultTime=5 PreemptMode=OFF
PartitionName=preemptible Nodes=h100-[01-02] PriorityTier=1 PreemptMode=REQUEUE GraceTime=$((5 * speed))
$(printf '%b' "${BOX_EXTRA:-}")
EOF
  cat >"$etc/cgroup.conf" <<EOF
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace=yes
EOF
  (umask 177; : >"$etc/slurmdbd.conf")
  cat >"$etc/slurmdbd.conf" <<EOF
AuthType=auth/munge
AuthInfo=socket=$DIR/run/munge.sock
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + 19))
SlurmUser=root
PidFile=$DIR/run/slurmdbd.own.pid
LogFile=$DIR/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 6))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
EOF
}

FASTER=/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketimeMT.so.1
ahead() { echo $((($(date +%s) - BOX_BORN) * (BOX_SPEED - 1))); } # the clock of a restarted controller must not go back

data_base() { # a private mariadb, which need not survive a power loss
  mariadb-install-db --no-defaults --datadir="$DIR/mysql" --user=root --skip-test-db --skip-name-resolve \
    --auth-root-authentication-method=normal --innodb-log-file-size=16M >"$DIR/log/mysql-install.log" 2>&1 \
    || die "mariadb-install-db: $(tail -3 "$DIR/log/mysql-install.log")"
  start mariadbd
  until_true 30 mariadb-admin --no-defaults --socket="$DIR/run/mysql.sock" ping || die "mariadbd: $(tail -3 "$DIR/log/mariadbd.out")"
  mariadb --no-defaults --socket="$DIR/run/mysql.sock" -e "CREATE DATABASE slurm_acct;
    CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm'; GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';" || die "no data base"
}

accounts() {
  data_base
  start slurmdbd; until_true 30 sacctmgr -n show cluster || die "slurmdbd: $(tail -3 "$DIR/log/slurmdbd.log")"
  timeout 30 sacctmgr -i -Q >"$DIR/log/sacctmgr.out" 2>&1 <<EOF || die "sacctmgr: $(tail -3 "$DIR/log/sacctmgr.out")"
add cluster box
add account team Description=team Organization=lab
add user root Account=team
quit
EOF
}

start() {
  export SLURM_CONF=$DIR/etc/slurm.conf
  . "$DIR/etc/box.env"
  ! pid "$1" >/dev/null || return 0
  case $1 in
    munged) spawn munged munged --foreground --force --key-file="$DIR/etc/munge.key" --socket="$DIR/run/munge.sock" \
      --pid-file="$DIR/run/munged.own.pid" --seed-file="$DIR/state/munge.seed" --log-file="$DIR/log/munged.log" ;;
    mariadbd) spawn mariadbd mariadbd --no-defaults --datadir="$DIR/mysql" --socket="$DIR/run/mysql.sock" --user=root \
      --bind-address=127.0.0.1 --port=$((BOX_PORT + 6)) --pid-file="$DIR/run/mariadbd.own.pid" --skip-name-resolve \
      --innodb-buffer-pool-size=64M --innodb-log-file-size=16M --innodb-flush-log-at-trx-commit=0 --innodb-flush-method=nosync \
      --innodb-doublewrite=0 --innodb-lock-wait-timeout=900 --performance-schema=OFF ;;
    slurmdbd) spawn slurmdbd slurmdbd -D ;;
    slurmctld)
      if [ "$BOX_SPEED" = 1 ]; then spawn slurmctld slurmctld -D -f "$SLURM_CONF"
      else spawn slurmctld env LD_PRELOAD="$FASTER" FAKETIME="+$(ahead) x$BOX_SPEED" slurmctld -D -f "$SLURM_CONF"; fi ;;
    slurmd.*)
      local node=${1#slurmd.} uts=$DIR/run/uts.${1#slurmd.}
      if ! mountpoint -q "$uts"; then : >"$uts"; unshare --uts="$uts" hostname "$node" || die "unshare --uts is not allowed here"; fi
      spawn "$1" nsenter --uts="$uts" unshare --mount --propagation private \
        bash -c 'mount --bind "$1/etc/hosts" /etc/hosts && exec slurmd -D -f "$1/etc/slurm.conf" -N "$2"' _ "$DIR" "$node" ;;
    *) die "no daemon $1" ;;
  esac
}

all_idle() { [ "$(timeout 5 sinfo -h -N -p debug -o %T | sort -u)" = idle ]; }

up() {
  [ "$(id -u)" = 0 ] || die "needs root"
  [ -n "$DIR" ] && [ ${#DIR} -le 70 ] || die "give a short folder"
  [ ! -e "$DIR/etc" ] || die "$DIR is in use: box.sh down $DIR"
  [ "${BOX_SPEED:-1}" = 1 ] || [ -e "$FASTER" ] || die "BOX_SPEED needs the package libfaketime"
  mkdir -p "$DIR"; configure; export SLURM_CONF=$DIR/etc/slurm.conf
  start munged; until_true 10 test -S "$DIR/run/munge.sock" || die "munged: $(tail -3 "$DIR/log/munged.out")"
  [ "${BOX_ACCT:-}" != dbd ] || accounts
  start slurmctld
  local n; for n in $NODES; do start "slurmd.$n"; done
  until_true 30 scontrol ping || die "slurmctld: $(tail -3 "$DIR/log/slurmctld.log")"
  local left=600; until all_idle; do left=$((left - 1)); [ $left -gt 0 ] || die "nodes: $(sinfo -N)"; sleep 0.05; done
}

down() {
  [ -d "$DIR/etc" ] || die "no cluster in $DIR"
  export SLURM_CONF=$DIR/etc/slurm.conf
  local n p
  for n in $NODES; do halt "slurmd.$n" KILL 2; done
  for n in $NODES; do
    p=$(node_pids "$n"); [ -z "$p" ] || kill -KILL $p 2>/dev/null
    ! mountpoint -q "$DIR/run/uts.$n" || umount "$DIR/run/uts.$n"
  done
  for n in slurmctld slurmdbd mariadbd munged; do halt $n KILL 2; done # nothing of it is kept
  . "$DIR/etc/box.env"
  [ "$BOX_MEMORY" != cgroup ] || for n in $NODES; do find /sys/fs/cgroup -depth -type d -path "*/slurm_$n*" -exec rmdir {} + 2>/dev/null; done
  ! mountpoint -q "$DIR/disk" || umount -l "$DIR/disk"
  rm -rf "$DIR"
}

case $CMD in
  up | down) $CMD ;;
  stop) halt "${3:?daemon}" TERM 10 ;;
  kill) halt "${3:?daemon}" KILL 5 ;;
  start) start "${3:?daemon}" ;;
  crash) p=$(node_pids "${3:?node}"); [ -n "$p" ] || die "nothing runs on $3"; kill -KILL $p ;;
  *) sed -n '2,25p' "$0" ;;
esac
