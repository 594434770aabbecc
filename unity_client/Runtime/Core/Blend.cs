using System;

namespace Everscene
{
    public enum BlendEase { Cosine, Linear }

    public enum BlendPath { Linear, Slerp }

    /// <summary>How a blend goes over to another prompt: <c>new Blend(6)</c>.</summary>
    public sealed class Blend
    {
        /// <summary>Of content, above 0, at most 600.</summary>
        public double Seconds { get; }
        public BlendEase Ease { get; }
        /// <summary>The way from one embedding to the other.</summary>
        public BlendPath Path { get; }

        /// <exception cref="ArgumentException">The seconds are not finite.</exception>
        public Blend(double seconds = 2, BlendEase ease = BlendEase.Cosine, BlendPath path = BlendPath.Linear)
        {
            if (double.IsNaN(seconds) || double.IsInfinity(seconds))
                throw new ArgumentException("a blend's seconds must be finite, not " + seconds);
            Seconds = seconds;
            Ease = ease;
            Path = path;
        }
    }
}
