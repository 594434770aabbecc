using System;

namespace Everscene
{
    /// <summary>
    /// Pictures that came through the socket: a few buffers, made once and handed round between the thread that receives
    /// and the one that shows. The receiver never waits: with no buffer free it takes the oldest unseen picture's.
    /// </summary>
    public sealed class InlineFrames
    {
        enum Use { Free, Filling, Ready, Reading }

        sealed class Slot
        {
            public byte[] Bytes = new byte[0];
            public int Length;
            public FrameInfo Info;
            public Use Use;
        }

        readonly Slot[] slots;
        readonly object gate = new object();
        long epoch;

        public InlineFrames(int count = 8)
        {
            slots = new Slot[count];
            for (int i = 0; i < count; i++) slots[i] = new Slot();
        }

        /// <summary>Takes a buffer to fill; give it to <see cref="Filled"/> or <see cref="Abandon"/>.</summary>
        public int Take()
        {
            lock (gate)
            {
                int chosen = -1;
                for (int i = 0; i < slots.Length; i++)
                {
                    if (slots[i].Use == Use.Free) { chosen = i; break; }
                    bool older = chosen < 0 || slots[i].Info.Number < slots[chosen].Info.Number;
                    if (slots[i].Use == Use.Ready && older) chosen = i;
                }
                slots[chosen].Use = Use.Filling;
                return chosen;
            }
        }

        /// <summary>The buffer itself, to be replaced by a larger one if need be.</summary>
        public ref byte[] Bytes(int slot) => ref slots[slot].Bytes;

        public void Filled(int slot, int length, ref FrameInfo info)
        {
            lock (gate)
            {
                slots[slot].Info = info;
                slots[slot].Info.RingToken = slot;
                slots[slot].Length = length;
                slots[slot].Use = Use.Ready;
                if (info.Epoch == epoch) return;
                epoch = info.Epoch; // a new server: what waits of the old one is of no use, and its numbers mislead
                for (int i = 0; i < slots.Length; i++)
                    if (i != slot && slots[i].Use == Use.Ready) slots[i].Use = Use.Free;
            }
        }

        public void Abandon(int slot)
        {
            lock (gate) slots[slot].Use = Use.Free;
        }

        /// <summary>
        /// The newest or the oldest picture after frame <paramref name="after"/> of <paramref name="afterEpoch"/>; those up to
        /// it are freed. It may still be dropped before it is borrowed.
        /// </summary>
        public bool TryPeek(bool newest, long after, long afterEpoch, out FrameInfo info)
        {
            lock (gate)
            {
                if (afterEpoch != epoch) after = 0;
                int chosen = -1;
                for (int i = 0; i < slots.Length; i++)
                {
                    if (slots[i].Use != Use.Ready) continue;
                    if (slots[i].Info.Number <= after) slots[i].Use = Use.Free;
                    else if (chosen < 0 || slots[i].Info.Number > slots[chosen].Info.Number == newest) chosen = i;
                }
                info = chosen < 0 ? new FrameInfo() : slots[chosen].Info;
                return chosen >= 0;
            }
        }

        /// <summary>Lends the picture that was peeked at, until <see cref="Return"/>; false when it was dropped.</summary>
        public bool TryBorrow(ref FrameInfo info, out ArraySegment<byte> bytes)
        {
            lock (gate)
            {
                Slot slot = slots[info.RingToken];
                bool same = slot.Use == Use.Ready && slot.Info.Number == info.Number && slot.Info.Epoch == info.Epoch;
                bytes = same ? new ArraySegment<byte>(slot.Bytes, 0, slot.Length) : new ArraySegment<byte>();
                if (same) slot.Use = Use.Reading;
                return same;
            }
        }

        public void Return(ref FrameInfo info)
        {
            lock (gate) slots[info.RingToken].Use = Use.Free;
        }

        /// <summary>Forgets every picture that waits.</summary>
        public void Clear()
        {
            lock (gate)
                foreach (Slot slot in slots)
                    if (slot.Use == Use.Ready) slot.Use = Use.Free;
        }
    }
}
